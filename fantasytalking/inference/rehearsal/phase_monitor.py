"""Measures seconds and peak memory of the phases of a generation, by hooks on the components that each begins with."""

import time
from typing import NamedTuple

import torch

from fantasytalking.common.devices import synchronize
from fantasytalking.common.process_memory import MemoryUse, PeakMemory, memory_use
from fantasytalking.inference.memory_plan import Phase
from fantasytalking.pipeline import FantasyTalkingPipeline


class PhaseMeasurement(NamedTuple):
    """What one phase took."""

    phase: Phase
    seconds: float
    core_seconds: float
    """Of all threads of this process, whatever else the machine does."""
    memory: MemoryUse | None
    """Peak beyond what the process had before loading; None: the system does not report it."""
    device_bytes: int | None
    """Peak of torch's allocations on a GPU; None: the CPU computes."""


class PhaseMonitor:
    """Attributes time and memory to phases. A phase lasts until the next one begins.

    Args:
        peak: samples the memory of this process.
        device: device that computes.
    """

    def __init__(self, peak: PeakMemory, device: torch.device) -> None:
        self._peak, self._device = peak, device
        self._before = memory_use()
        self._phase: Phase | None = None
        self._start = self._core_start = 0.0
        self.measured: list[PhaseMeasurement] = []

    def watch(self, pipe: FantasyTalkingPipeline) -> None:
        """Begins a phase whenever a component of it is called."""
        begins = {
            Phase.image: [pipe.image_encoder],
            Phase.first_frame: [pipe.vae.encoder.conv_in],
            Phase.audio: [pipe.audio_encoder],
            Phase.denoise: list(pipe.experts)[:2],
            Phase.decode: [pipe.vae.decoder],
        }
        for phase, modules in begins.items():
            for module in modules:
                if isinstance(module, torch.nn.Module):
                    module.register_forward_pre_hook(lambda *_, phase=phase: self.begin(phase))

    def begin(self, phase: Phase | None) -> None:
        """Ends the present phase and begins another; None: nothing is measured further."""
        if phase is self._phase:
            return
        on_gpu = self._device.type != "cpu"
        if self._phase is not None:
            synchronize(self._device)
            seconds, core_seconds = time.perf_counter() - self._start, time.process_time() - self._core_start
            peak = self._peak.take()
            grown = None
            if peak is not None and self._before is not None:
                grown = MemoryUse(peak.own - self._before.own, peak.mapped - self._before.mapped)
            device_bytes = torch.accelerator.max_memory_allocated(self._device) if on_gpu else None
            self.measured.append(PhaseMeasurement(self._phase, seconds, core_seconds, grown, device_bytes))
        elif phase is not None:
            self._before = memory_use()
        self._peak.take()
        if on_gpu:
            torch.accelerator.reset_peak_memory_stats(self._device)
        self._phase, self._start, self._core_start = phase, time.perf_counter(), time.process_time()

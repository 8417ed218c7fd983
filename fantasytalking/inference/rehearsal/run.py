"""Rehearses a generation: writes random weights in true sizes, generates a video, and compares it with the plan."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.devices import resolve_device, total_memory
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.process_memory import PeakMemory, available_memory
from fantasytalking.common.resources import resource_path
from fantasytalking.inference.component_shapes import build_meta_components
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.doctor import measure_matmul_rate
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.loading_plan import onloaded_groups
from fantasytalking.inference.memory_plan import Phase, PhasePlan, Placement, plan_phases, run_configuration
from fantasytalking.inference.model_sources import ResolvedModel, find_source, load_pipeline, resolve_model
from fantasytalking.inference.optimizations import WeightQuantization
from fantasytalking.inference.rehearsal.model_files import write_model
from fantasytalking.inference.rehearsal.phase_monitor import PhaseMeasurement, PhaseMonitor
from fantasytalking.inference.rehearsal.stored_layouts import (
    REHEARSED_MODULES,
    StoredFiles,
    WeightFormat,
    files_bytes,
    plan_files,
    plan_loading,
)
from fantasytalking.inference.rehearsal.work_folder import (
    begin_weights,
    check_disk,
    check_work_folder,
    end_weights,
    holds_weights,
)
from fantasytalking.models.presets import ModelConfig, load_model_config
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.model_facts import ModelFacts

PORTRAIT, SPEECH = "data/demo/portrait.png", "data/demo/speech.wav"
FLOAT32_PHASES = (Phase.first_frame, Phase.audio, Phase.decode)
"""Phases that run float32 components."""
HEADER_BYTES = 1 << 24
"""Room for headers, configurations and the video."""


@dataclass(frozen=True)
class RehearsalRequest:
    """What is rehearsed."""

    preset: str
    work: Path
    size: str = "256x256"
    frames: int = 17
    steps: int | None = None
    """None: the preset's."""
    layers: int | None = None
    """Most layers of transformer, text and image encoder; None: all."""
    weight_format: WeightFormat = WeightFormat.safetensors
    aligned: bool = False
    """Whether weights lie at addresses that a CPU computes with where they are mapped. Published files mostly do not,
    and are copied."""
    device: str = "auto"
    settings: Sequence[str] = ()
    """Further settings of inference, KEY=VALUE."""


@dataclass(frozen=True)
class PhaseResult:
    """One phase, as planned and as measured; None: not known."""

    phase: str
    planned_seconds: float | None
    """Operations over the measured rate of a large matrix product; on a CPU, in seconds of one core."""
    seconds: float
    core_seconds: float
    """Of all threads of this process, whatever else the machine does."""
    planned_bytes: int
    """Main memory of its own on a CPU, device memory on a GPU."""
    bytes: int | None
    mapped_bytes: int | None
    """Of files, which the system drops where memory is needed."""


@dataclass(frozen=True)
class Rehearsal:
    """A finished rehearsal."""

    preset: str
    device: str
    disk_bytes: int
    phases: list[PhaseResult]
    video: str

    @property
    def planned_peak(self) -> int:
        """Largest planned memory in bytes."""
        return max(phase.planned_bytes for phase in self.phases)

    @property
    def peak(self) -> int | None:
        """Largest measured memory in bytes; None: the system does not report it."""
        return max((phase.bytes for phase in self.phases if phase.bytes is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the rehearsal as JSON values."""
        return {**asdict(self), "planned_peak": self.planned_peak, "peak": self.peak}


def rehearse(request: RehearsalRequest) -> Rehearsal:
    """Rehearses a generation.

    Raises:
        InputError: the work folder is something else, disk or memory do not suffice, or the request has no such model
            or video.
    """
    check_work_folder(request.work)
    preset = load_model_config(request.preset)
    source = find_source(preset.base)
    base = source if source is not None and source.is_dir() else None
    models = build_meta_components(preset, base, num_layers=request.layers)
    files = plan_files(models, request.weight_format)
    description = {
        "preset": request.preset,
        "layers": request.layers,
        "format": request.weight_format.value,
        "aligned": request.aligned,
    }
    is_written = holds_weights(request.work, description)
    if not is_written:
        check_disk(request.work, files_bytes(files) + HEADER_BYTES)
    config = load_config(InferConfig, preset_path(request.preset, "infer"), _settings(request, []))
    device = resolve_device(request.device, "--device")
    planned = _plan(request, preset, models, files, config, device)
    _check_memory(planned)
    settings_file = request.work / "settings.txt"
    if not is_written:
        begin_weights(request.work)
        settings = write_model(request.work, preset, models, files, 64 if request.aligned else 8)
        settings_file.write_text("\n".join(settings), encoding="utf-8")
        end_weights(request.work, description)
    settings = settings_file.read_text(encoding="utf-8").splitlines()
    config = load_config(InferConfig, preset_path(request.preset, "infer"), _settings(request, settings))
    measured = _generate(config, request)
    return _compare(request, config, files_bytes(files), planned, measured, device)


def _settings(request: RehearsalRequest, settings: list[str]) -> list[str]:
    """The random adapter has no face encoder, so its face attention is off."""
    own = [f"sizes=[{request.size}]", "face_scale=0", f"device={request.device}", "adapter_2=null", "base=null"]
    own += [] if request.steps is None else [f"num_inference_steps={request.steps}"]
    return [*own, *settings, *request.settings]


def _plan(
    request: RehearsalRequest,
    preset: ModelConfig,
    models: Mapping[str, nn.Module],
    files: StoredFiles,
    config: InferConfig,
    device: torch.device,
) -> list[PhasePlan]:
    facts = ModelFacts(
        REHEARSED_MODULES, None, preset.geometry, False, False, {}, has_experts=preset.boundary_ratio is not None
    )
    runs = run_configuration(config, facts, models, request.frames, device.type, total_memory(device))
    settings = config.optimizations
    weights = plan_loading(
        models,
        files,
        config.dtype.torch_dtype,
        is_aligned=request.aligned,
        is_for_cpu=device.type == "cpu",
        keeps_quantized=settings.quantization is WeightQuantization.stored,
        groups=onloaded_groups(models, settings.offload_blocks, settings.offload_prefetch),
    )
    return plan_phases(weights, runs, Placement.of(config, device.type, config.offload.value))


def _check_memory(planned: list[PhasePlan]) -> None:
    needed, available = max(phase.main_bytes for phase in planned), available_memory().available
    if needed > available:
        raise InputError(
            f"the plan needs {needed / 2**30:.1f} GiB of main memory, and {available / 2**30:.1f} GiB are available; "
            "give --aligned, fewer --layers, or a smaller --size",
            code=ErrorCode.insufficient_resources,
            field="memory",
            value=available,
        )


def _generate(config: InferConfig, request: RehearsalRequest) -> list[PhaseMeasurement]:
    config.max_seconds = request.frames / config.fps
    job = GenerationJob(config, resource_path(PORTRAIT), (resource_path(SPEECH),), request.work / "video.mp4")
    model: ResolvedModel = resolve_model(config)
    with PeakMemory() as peak:
        monitor = PhaseMonitor(peak, model.device)

        def load() -> FantasyTalkingPipeline:
            monitor.begin(Phase.prompt)
            pipe = load_pipeline(config, model, job.prompts, lambda: monitor.begin(Phase.load))
            monitor.watch(pipe)
            return pipe

        generate_video(job, model, load)
        monitor.begin(None)
    return monitor.measured


def _compare(
    request: RehearsalRequest,
    config: InferConfig,
    disk_bytes: int,
    planned: list[PhasePlan],
    measured: list[PhaseMeasurement],
    device: torch.device,
) -> Rehearsal:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rates = {dtype: measure_matmul_rate(dtype, clock) for dtype in {torch.float32, config.dtype.torch_dtype}}
    plans = {plan.phase: plan for plan in planned}
    results = []
    for found in measured:
        plan = plans[found.phase]
        rate = rates[torch.float32 if found.phase in FLOAT32_PHASES else config.dtype.torch_dtype]
        own = None if found.memory is None else found.memory.own
        results.append(
            PhaseResult(
                found.phase.value,
                plan.operations / rate if plan.operations else None,
                found.seconds,
                found.core_seconds,
                plan.device_bytes,
                own if found.device_bytes is None else found.device_bytes,
                None if found.memory is None else found.memory.mapped,
            )
        )
    return Rehearsal(request.preset, device.type, disk_bytes, results, str(request.work / "video.mp4"))

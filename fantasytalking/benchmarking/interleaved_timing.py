"""Timing of workloads in alternation, so that ratios hold on a busy machine; counting of operations and memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from fantasytalking.common.devices import synchronize

Workload = Callable[[], object]
TensorShape = tuple[int, ...]

CPU_ATTENTION_OP = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class WorkloadTiming:
    """Times of a workload over the rounds, and their ratios to the first workload."""

    name: str
    seconds: list[float]
    """Seconds per round."""
    ratios: list[float]
    """Seconds of each round over those of the first workload in that round."""

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)


def time_interleaved(
    workloads: Mapping[str, Workload], device: torch.device, rounds: int, warmup_rounds: int = 1
) -> list[WorkloadTiming]:
    """Times the workloads in alternation, `rounds` times each, after `warmup_rounds` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for number in range(-warmup_rounds, rounds):
        for name, workload in workloads.items():
            elapsed = _time_workload(workload, device)
            if number >= 0:
                seconds[name].append(elapsed)
    first = next(iter(seconds.values()))
    return [
        WorkloadTiming(name, own, [mine / reference for mine, reference in zip(own, first, strict=True)])
        for name, own in seconds.items()
    ]


def count_flops(workload: Workload) -> int:
    """Returns the floating-point operations of the matrix products and attentions in one run of `workload`."""
    with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION_OP: _attention_flops}) as counter:
        workload()
    return counter.get_total_flops()


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Returns the operations per second of a square matrix product of random numbers, as a ceiling to compare with."""
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = [_time_workload(lambda: first @ second, device) for _ in range(7)]
    return 2 * size**3 / statistics.median(seconds[2:])


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory so far in GiB: of torch on a GPU, of the process on a CPU (Linux only)."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device) / 2**30
    # getrusage would include the memory of the parent at the start of this process.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20  # kibibytes


def _attention_flops(query: TensorShape, key: TensorShape, value: TensorShape, *_: object, **__: object) -> int:
    """Returns the operations of both products, as torch counts them on a GPU; it does not count them on a CPU."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def _time_workload(workload: Workload, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    workload()
    synchronize(device)
    return time.perf_counter() - start

"""What is told of a run: loss, loss per noise level, gradient norm, speed, memory, time left."""

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.files import atomic_write

NOISE_BUCKETS = 8


class MetricsAccumulator:
    """Means since the last report.

    Args:
        tokens_per_clip: video tokens of a clip can differ from step to step, so each step brings its own.
    """

    def __init__(self) -> None:
        self._reset()

    def add(self, losses: Tensor, sigmas: Tensor, grad_norm: float, tokens: int, seconds: float) -> None:
        """One step: losses and noise levels (N,) of the global batch, its video tokens, and the time it took."""
        self._losses.append(losses.double().cpu())
        self._sigmas.append(sigmas.double().cpu())
        self._grad_norms.append(grad_norm)
        self._tokens += tokens
        self._seconds += seconds

    def report(self, step: int, steps: int, learning_rate: float, device: torch.device) -> dict[str, Any]:
        """One line of log.jsonl after `step` of `steps` steps; begins anew."""
        losses, count = torch.cat(self._losses), len(self._grad_norms)
        seconds = max(self._seconds, 1e-9)
        line = {
            "step": step,
            "loss": losses.mean().item(),
            "loss_by_noise": loss_by_noise_level(losses, torch.cat(self._sigmas)),
            "gradient_norm": sum(self._grad_norms) / count,
            "learning_rate": learning_rate,
            "steps_per_second": count / seconds,
            "clips_per_second": len(losses) / seconds,
            "tokens_per_second": self._tokens / seconds,
            "memory_gib": peak_memory_bytes(device) / 2**30,
            "seconds_left": (steps - step) * seconds / count,
        }
        self._reset()
        return line

    def _reset(self) -> None:
        self._losses: list[Tensor] = []
        self._sigmas: list[Tensor] = []
        self._grad_norms: list[float] = []
        self._tokens, self._seconds = 0, 0.0


def loss_by_noise_level(losses: Tensor, sigmas: Tensor) -> list[float | None]:
    """Mean loss of each eighth of the noise levels, from clean to noise; None where there was no clip."""
    bucket = (sigmas * NOISE_BUCKETS).long().clamp(0, NOISE_BUCKETS - 1)
    means: list[float | None] = []
    for number in range(NOISE_BUCKETS):
        chosen = losses[bucket == number]
        means.append(chosen.mean().item() if len(chosen) else None)
    return means


def flatten_scalars(line: dict[str, Any]) -> dict[str, float]:
    """A report as trackers take it: flat, numbers only."""
    flat = {name: float(value) for name, value in line.items() if isinstance(value, int | float)}
    flat.update(
        {
            f"loss_by_noise/{number / NOISE_BUCKETS:.3f}": value
            for number, value in enumerate(line["loss_by_noise"])
            if value is not None
        }
    )
    return flat


def format_log_line(line: dict[str, Any], steps: int) -> str:
    """A report as a person reads it."""
    minutes, seconds = divmod(round(line["seconds_left"]), 60)
    return (
        f"step {line['step']}/{steps}  loss {line['loss']:.4f}  norm {line['gradient_norm']:.3f}  "
        f"lr {line['learning_rate']:.2e}  {line['clips_per_second']:.2f} clips/s  "
        f"{line['tokens_per_second']:,.0f} tokens/s  {line['memory_gib']:.2f} GiB  "
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def append_log_line(path: Path, line: dict[str, Any]) -> None:
    """Adds a line to log.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def truncate_log(path: Path, last_step: int) -> None:
    """Takes the lines of steps after `last_step` out of log.jsonl: they will be done again."""
    if not path.is_file():
        return
    kept = [line for line in _complete_lines(path.read_text(encoding="utf-8")) if json.loads(line)["step"] <= last_step]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _complete_lines(text: str) -> Sequence[str]:
    """A kill may have cut the last one."""
    return text.split("\n")[:-1]

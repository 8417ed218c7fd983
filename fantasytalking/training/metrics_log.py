"""Metrics of a run: loss, loss per noise level, gradient norm, speed, memory and time left."""

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.files import atomic_write_text, report_write_errors

LOG_FILE = "log.jsonl"
NOISE_BUCKETS = 8
_SHOWN_DIGITS = {"loss": 4, "gradient_norm": 3}


class StepMetrics(NamedTuple):
    """Metrics of one step."""

    losses: Tensor
    """(N,) loss of each clip of the global batch."""
    sigmas: Tensor
    """(N,) noise level of each clip, in [0, 1]."""
    masked: Tensor
    """(N,) bool: whether the loss of a clip counts the lips only."""
    grad_norm: float
    """Gradient norm before clipping."""
    tokens: int
    """Video tokens of the global batch."""


class MetricsAccumulator:
    """Averages metrics between two reports.

    Args:
        masks_lips: whether the loss of some clips counts the lips only; masked and other losses are then averaged
            separately as well.
    """

    def __init__(self, masks_lips: bool = False) -> None:
        self._masks_lips = masks_lips
        self._reset()

    def add(self, metrics: StepMetrics, seconds: float, is_skipped: bool = False) -> None:
        """Adds a step that took `seconds`; of a skipped one, whose numbers are not finite, its duration only."""
        self._steps += 1
        self._clips += len(metrics.losses)
        self._tokens += metrics.tokens
        self._seconds += seconds
        if is_skipped:
            return
        self._losses.append(metrics.losses.double().cpu())
        self._sigmas.append(metrics.sigmas.double().cpu())
        self._masked.append(metrics.masked.cpu())
        self._grad_norms.append(metrics.grad_norm)

    def report(self, step: int, steps: int, learning_rate: float, device: torch.device) -> dict[str, Any]:
        """Returns one line of log.jsonl after `step` of `steps` steps, and resets the averages.

        Averages over steps that were all skipped are None.
        """
        losses, sigmas, masked = (
            torch.cat(values) if values else torch.zeros(0) for values in (self._losses, self._sigmas, self._masked)
        )
        seconds = max(self._seconds, 1e-9)
        line = {
            "step": step,
            "loss": _mean(losses),
            "loss_by_noise": loss_by_noise_level(losses, sigmas),
            "gradient_norm": sum(self._grad_norms) / len(self._grad_norms) if self._grad_norms else None,
            "learning_rate": learning_rate,
            "steps_per_second": self._steps / seconds,
            "clips_per_second": self._clips / seconds,
            "tokens_per_second": self._tokens / seconds,
            "memory_gib": peak_memory_bytes(device) / 2**30,
            "seconds_left": (steps - step) * seconds / self._steps,
            "skipped_steps": self._steps - len(self._grad_norms),
        }
        if self._masks_lips:
            line["loss_masked"], line["loss_unmasked"] = _mean(losses[masked.bool()]), _mean(losses[~masked.bool()])
        self._reset()
        return line

    def _reset(self) -> None:
        self._losses: list[Tensor] = []
        self._sigmas: list[Tensor] = []
        self._masked: list[Tensor] = []
        self._grad_norms: list[float] = []
        self._steps, self._clips, self._tokens, self._seconds = 0, 0, 0, 0.0


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def loss_by_noise_level(losses: Tensor, sigmas: Tensor) -> list[float | None]:
    """Returns the mean loss in each eighth of the noise levels, from 0 to 1; None for one without clips."""
    bucket = (sigmas * NOISE_BUCKETS).long().clamp(0, NOISE_BUCKETS - 1)
    means: list[float | None] = []
    for number in range(NOISE_BUCKETS):
        means.append(_mean(losses[bucket == number]))
    return means


def flatten_scalars(line: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of a report by flat name, as trackers expect them."""
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
    """Returns a report as one line of text."""
    minutes, seconds = divmod(round(line["seconds_left"]), 60)
    loss, norm = ("-" if line[key] is None else f"{line[key]:.{digits}f}" for key, digits in _SHOWN_DIGITS.items())
    return (
        f"step {line['step']}/{steps}  loss {loss}  norm {norm}  "
        f"lr {line['learning_rate']:.2e}  {line['clips_per_second']:.2f} clips/s  "
        f"{line['tokens_per_second']:,.0f} tokens/s  {line['memory_gib']:.2f} GiB  "
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak memory in bytes: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def append_log_line(path: Path, line: dict[str, Any]) -> None:
    """Appends a line to a JSON Lines file.

    Raises:
        InputError: the disk is full, read-only or failing.
    """
    with report_write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def truncate_log(path: Path, last_step: int) -> None:
    """Removes the lines of steps after `last_step`, which are repeated, from a JSON Lines file if it exists."""
    if not path.is_file():
        return
    kept = [line for line in _complete_lines(path.read_text(encoding="utf-8")) if json.loads(line)["step"] <= last_step]
    atomic_write_text(path, "".join(f"{line}\n" for line in kept))


def _complete_lines(text: str) -> Sequence[str]:
    """Lines that end with a newline; a kill may have cut off the last one."""
    return text.split("\n")[:-1]

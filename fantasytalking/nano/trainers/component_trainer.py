"""Training loop of nano's components. Each step depends on seed and step number only, so that resuming is exact.

The transformer is trained by the project's Trainer instead.
"""

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.nano.trainers.config import ComponentTrainingConfig
from fantasytalking.training.optimizers import optimizer_class, set_learning_rate

logger = logging.getLogger(__name__)

TRAINING_STATE_FILE = "state.pt"
MIN_LR_RATIO = 0.01


class ComponentTask(Protocol):
    """Model and loss of a component's training."""

    name: str

    @property
    def model(self) -> nn.Module:
        """Model whose parameters are all trained."""

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns the mean loss of one batch. Randomness comes from `random` and torch's global generator only."""


@dataclass(frozen=True)
class ComponentTrainingReport:
    """Result of a training."""

    first_loss: float
    """Mean loss of the first tenth of the steps."""
    last_loss: float
    """Mean loss of the last tenth of the steps."""
    steps: int
    seconds: float
    """Time spent in steps, including interrupted runs."""


def report_values(report: ComponentTrainingReport, model: nn.Module) -> dict[str, Any]:
    """Returns the measurements of a training that a build step reports."""
    parameters = sum(value.numel() for value in model.parameters())
    return {
        "parameters": parameters,
        "steps": report.steps,
        "first_loss": report.first_loss,
        "last_loss": report.last_loss,
        "seconds_a_step": report.seconds / max(1, report.steps),
    }


def train_component(
    task: ComponentTask, config: ComponentTrainingConfig, folder: Path, device: torch.device, seed: int
) -> ComponentTrainingReport:
    """Trains `task` to the last step, starting from the saved state in `folder` if there is one.

    Args:
        task: model and loss.
        config: steps, batch size and optimizer.
        folder: folder of the training state.
        device: device of the training.
        seed: seed of all random numbers.

    Raises:
        InputError: the saved state is damaged, or the loss is not finite.
    """
    model = task.model.to(device).train()
    optimizer = optimizer_class(config.optimizer)(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    losses, seconds = _load_state(folder / TRAINING_STATE_FILE, model, optimizer)
    for step in range(len(losses), config.steps):
        start = perf_counter()
        set_learning_rate(optimizer, _learning_rate(step, config))
        torch.manual_seed(seed * 1_000_003 + step)
        with autocast_context(device):
            loss = task.loss(np.random.default_rng([seed, step]), step)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss of {task.name} is {loss.item()} at step {step}; lower its fit.learning_rate, which is "
                f"{config.learning_rate:g}",
                code=ErrorCode.out_of_range,
                field="fit.learning_rate",
                value=config.learning_rate,
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        seconds += perf_counter() - start
        done = step + 1
        if done % config.log_interval == 0 or done == config.steps:
            _log_progress(task.name, losses, config, seconds)
        if done % config.save_interval == 0 or done == config.steps:
            _save_state(folder / TRAINING_STATE_FILE, model, optimizer, losses, seconds)
    model.eval()
    tenth = max(1, len(losses) // 10)
    return ComponentTrainingReport(
        float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])), len(losses), seconds
    )


def autocast_context(device: torch.device) -> AbstractContextManager[None]:
    """Returns a bfloat16 autocast on devices with bfloat16 arithmetic (a third faster on CPUs), else no autocast."""
    on_gpu = device.type == "cuda"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bf16()
    return torch.autocast(device.type, torch.bfloat16) if has_bf16 else nullcontext()


@lru_cache
def _cpu_has_bf16() -> bool:
    """Whether /proc/cpuinfo lists bfloat16 instructions; False where the file does not exist."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and any(flag in cpuinfo.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def _learning_rate(step: int, config: ComponentTrainingConfig) -> float:
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, step / max(1, config.steps))
    decay = MIN_LR_RATIO + (1 - MIN_LR_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * warmup * decay


def _load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], float]:
    if not path.is_file():
        return [], 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimiser"])
        return list(state["losses"]), float(state["seconds"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise InputError(
            f"'{path}' cannot be loaded ({error}); remove it to restart this step",
            code=ErrorCode.malformed_file,
            field="work_dir",
            value=str(path),
        ) from error


def _save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float], seconds: float
) -> None:
    state = {
        "model": model.state_dict(),
        "optimiser": optimizer.state_dict(),
        "losses": losses,
        "seconds": seconds,
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def _log_progress(name: str, losses: list[float], config: ComponentTrainingConfig, seconds: float) -> None:
    done = len(losses)
    step_seconds = seconds / done
    remaining = round((config.steps - done) * step_seconds)
    recent = float(np.mean(losses[-config.log_interval :]))
    logger.info(
        f"{name}: step {done}/{config.steps}  loss {recent:.4f}  {step_seconds:.2f} s/step  "
        f"{remaining // 3600}:{remaining // 60 % 60:02d}:{remaining % 60:02d} remaining"
    )

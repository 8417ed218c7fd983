"""The one training loop of the components: a function of seed and step, so that a killed run goes on as if it had not.

The transformer is not trained here but by the project's Trainer.
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

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.nano.config import ComponentTrainingConfig
from fantasytalking.training.config import OptimizerType
from fantasytalking.training.muon import Muon

logger = logging.getLogger(__name__)

TRAINING_STATE_FILE = "state.pt"
MIN_LR_RATIO = 0.01


class ComponentTask(Protocol):
    """What is trained, and the loss of a step."""

    name: str

    @property
    def model(self) -> nn.Module:
        """Trained as a whole."""

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """The mean loss of one batch, with gradient; all randomness from `random` and torch's global generator."""


@dataclass(frozen=True)
class ComponentTrainingReport:
    """What came of an optimisation."""

    first_loss: float
    """Mean of the first tenth of the steps."""
    last_loss: float
    """Mean of the last tenth."""
    steps: int
    seconds: float
    """Spent in steps, over all runs."""


def report_values(report: ComponentTrainingReport, model: nn.Module) -> dict[str, Any]:
    """What a step of the build tells of the training of a model."""
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
    """Trains `task` from the state in `folder`, or from nothing, to the last step.

    Raises:
        InputError: the state is damaged, or the loss is not finite.
    """
    model = task.model.to(device).train()
    kind = {OptimizerType.adamw: torch.optim.AdamW, OptimizerType.muon: Muon}[config.optimizer]
    optimiser = kind(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    losses, seconds = _load_state(folder / TRAINING_STATE_FILE, model, optimiser)
    for step in range(len(losses), config.steps):
        start = perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, config)
        torch.manual_seed(seed * 1_000_003 + step)
        with autocast_context(device):
            loss = task.loss(np.random.default_rng([seed, step]), step)
        if not torch.isfinite(loss):
            raise InputError(f"the loss of {task.name} is not finite at step {step}; lower its fit.learning_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimiser.step()
        losses.append(loss.item())
        seconds += perf_counter() - start
        done = step + 1
        if done % config.log_interval == 0 or done == config.steps:
            _log_progress(task.name, losses, config, seconds)
        if done % config.save_interval == 0 or done == config.steps:
            _save_state(folder / TRAINING_STATE_FILE, model, optimiser, losses, seconds)
    model.eval()
    tenth = max(1, len(losses) // 10)
    return ComponentTrainingReport(
        float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])), len(losses), seconds
    )


def autocast_context(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 on a GPU or a processor that computes with it (a third less time there); float32 elsewhere."""
    on_gpu = device.type == "cuda"
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _processor_has_bf16()
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()


@lru_cache
def _processor_has_bf16() -> bool:
    """Whether Linux says so; a processor of which nothing is known has it not."""
    facts = Path("/proc/cpuinfo")
    return facts.is_file() and any(word in facts.read_text() for word in ("avx512_bf16", "amx_bf16"))


def _learning_rate(step: int, config: ComponentTrainingConfig) -> float:
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, step / max(1, config.steps))
    share = MIN_LR_RATIO + (1 - MIN_LR_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * rise * share


def _load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], float]:
    if not path.is_file():
        return [], 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimiser"])
        return list(state["losses"]), float(state["seconds"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise InputError(f"'{path}' cannot be gone on from ({error}); remove it to begin this step anew") from error


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
    each = seconds / done
    left = round((config.steps - done) * each)
    recent = float(np.mean(losses[-config.log_interval :]))
    logger.info(
        f"{name}: step {done}/{config.steps}  loss {recent:.4f}  {each:.2f} s a step  "
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
    )

"""The optimiser and its learning rate, a function of the step alone."""

import math

import torch
from torch import nn

from fantasytalking.training.config import Optimiser, OptimiserConfig, Schedule
from fantasytalking.training.muon import Muon


def build_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """AdamW or Muon over what trains: matrices decay, vectors (biases, norms) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = {Optimiser.adamw: torch.optim.AdamW, Optimiser.muon: Muon}[config.kind]
    return kind(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


def learning_rate(step: int, steps: int, config: OptimiserConfig) -> float:
    """The learning rate of step number `step` (0 is the first) of `steps`: linear warm-up, then the schedule."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    if config.schedule is Schedule.constant:
        return config.learning_rate
    progress = (step - config.warm_up) / max(1, steps - 1 - config.warm_up)
    share = (1 + math.cos(math.pi * progress)) / 2 if config.schedule is Schedule.cosine else 1 - progress
    return config.learning_rate * (config.final_share + (1 - config.final_share) * share)


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Sets it for every group."""
    for group in optimiser.param_groups:
        group["lr"] = value

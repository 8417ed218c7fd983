"""Builds the optimizer and computes its learning rate as a function of the step."""

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from fantasytalking.common.errors import ErrorCode, InputError, install_command
from fantasytalking.training.config import LRSchedule, OptimizerConfig, OptimizerType
from fantasytalking.training.muon import Muon


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of the parameters that train, with weight decay on matrices only (no biases, norms).

    Raises:
        InputError: the type needs torchao, which is not installed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return optimizer_class(config.type)(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


def optimizer_class(kind: OptimizerType) -> Any:
    """Returns the class of an optimizer.

    Raises:
        InputError: it needs torchao, which is not installed.
    """
    if kind is OptimizerType.adamw_8bit:
        if find_spec("torchao") is None:
            raise InputError(
                "optimizer.type is adamw_8bit, which needs torchao: " + install_command("quantization"),
                code=ErrorCode.unsupported,
                field="optimizer.type",
                value="adamw_8bit",
            )
        from fantasytalking.training.adamw_8bit import BlockwiseAdamW

        return BlockwiseAdamW
    return Muon if kind is OptimizerType.muon else torch.optim.AdamW


def learning_rate_at(step: int, steps: int, config: OptimizerConfig) -> float:
    """Returns the learning rate of step number `step` (from 0) of `steps`: linear warmup, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.lr_schedule is LRSchedule.constant:
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    decay = (1 + math.cos(math.pi * progress)) / 2 if config.lr_schedule is LRSchedule.cosine else 1 - progress
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # that of an optimizer whose step is compiled
            group["lr"].fill_(value)
        else:
            group["lr"] = value

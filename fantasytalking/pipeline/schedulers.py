"""Schedulers of the flow, and their timesteps."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS

FLOW_SHIFT_RANGE = (0.01, 100.0)
"""Smallest and largest flow shift; 0 leaves no noise levels."""
MAX_TRAIN_TIMESTEPS = 100_000
"""Largest number of training timesteps of a saved scheduler; Wan's is 1000."""


class SchedulerType(Enum):
    """Solver of the flow."""

    euler = "euler"
    """First order, as in the released code."""
    unipc = "unipc"
    """UniPC, second order (arXiv 2302.04867), as in Wan."""


def make_scheduler(scheduler_type: SchedulerType, flow_shift: float = 5.0) -> SchedulerMixin:
    """Returns a diffusers scheduler; a larger `flow_shift` spends more steps at high noise (released: 5)."""
    if scheduler_type is SchedulerType.euler:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=flow_shift)
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
    )


def check_scheduler_config(config: Mapping[str, Any], source: str) -> None:
    """Validates the configuration of a saved scheduler.

    Raises:
        InputError: a flow shift is not from 0.01 to 100, or the number of timesteps not from 1 to 100,000.
    """
    for name, kinds, low, high in (
        ("shift", (int, float), *FLOW_SHIFT_RANGE),
        ("flow_shift", (int, float), *FLOW_SHIFT_RANGE),
        ("num_train_timesteps", (int,), 1, MAX_TRAIN_TIMESTEPS),
    ):
        value = config.get(name, low)
        if type(value) not in kinds or not low <= value <= high:
            raise InputError(
                f"{source}: {name} of the scheduler is {str(value)[:40]}; it must be {low:g} to {high:g}",
                code=ErrorCode.out_of_range,
                field=name,
                value=value,
            )


def check_scheduler(scheduler: SchedulerMixin, source: str) -> None:
    """Validates that a saved scheduler has finite noise levels for this pipeline's timesteps.

    Raises:
        InputError: its settings fail, or need what the pipeline does not pass.
    """
    try:
        timesteps = set_timesteps(scheduler, 2, torch.device("cpu"))
        fits = len(timesteps) == 2 and bool(torch.isfinite(scheduler.sigmas).all())
        reason = "its noise levels are not finite"
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        fits, reason = False, (str(error).splitlines() or [type(error).__name__])[0][:200]
    if not fits:
        raise InputError(
            f"the scheduler in '{source}' cannot be used ({reason}); save the pipeline again",
            code=ErrorCode.malformed_file,
            field="scheduler",
            value=source,
        )


def set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device) -> Tensor:
    """Sets the timesteps of `num_inference_steps` steps and returns them (steps,).

    The noise levels of Euler are evenly spaced from 1 to 1/steps before the shift, as in the released code; by default
    diffusers would shift the last of them twice.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1].tolist(), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps

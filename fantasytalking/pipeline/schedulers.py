"""Schedulers of the flow, and their timesteps."""

from enum import Enum

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import Tensor

from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS


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

"""The two samplers, and their noise levels."""

from enum import Enum

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import Tensor

from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS


class SchedulerType(Enum):
    """How the flow is followed."""

    euler = "euler"
    """Straight steps, as the released code samples."""
    unipc = "unipc"
    """Second order (arXiv 2302.04867), as Wan itself samples."""


def make_scheduler(scheduler_type: SchedulerType, flow_shift: float = 5.0) -> SchedulerMixin:
    """A scheduler of diffusers; `flow_shift` moves the noise levels towards noise (released: 5)."""
    if scheduler_type is SchedulerType.euler:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=flow_shift)
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
    )


def set_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device) -> Tensor:
    """Sets the noise levels of `num_inference_steps` steps and gives their timesteps (steps,).

    Euler's are evenly spaced from 1 to 1/steps before the shift, as in the released code; left to itself diffusers
    would shift the last of them twice.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1].tolist(), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps

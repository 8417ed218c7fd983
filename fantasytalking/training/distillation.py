"""Stage 3: few steps, and guidance folded in, by piecewise rectified flow (PeRFlow, Yan et al., arXiv 2405.07510).

The way from noise to sample is cut into K windows. Within one the guided teacher is followed by small steps; the
student learns the straight line from where that began to where it ended, in one call that is told the guidance scales
(Meng et al., arXiv 2210.03142). K steps of the student then stand for K times `teacher_steps` guided ones.

Teacher and student are one network: without its LoRA and not told the scales, it is the teacher.

Axes: B clips, F latent frames, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.checkpoints.lora import lora_off
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import Batch
from fantasytalking.flow_matching import TIMESTEPS, add_noise, shifted, velocity_loss
from fantasytalking.models.cfg_branches import Branch, path_weights
from fantasytalking.training.config import DistillationConfig, LossConfig
from fantasytalking.training.losses import StepLoss, loss_weight
from fantasytalking.training.rng import Draws


class Asked(NamedTuple):
    """Which part of the way each clip is about, and with which guidance."""

    start: Tensor
    """(B,) position at which the window begins, float64: 1 = noise, 0 = sample, before the shift."""
    place: Tensor
    """(B,) how far into the window the student is asked, in noise levels: 0 = at its start."""
    scales: Tensor
    """(B, 2) of text and audio guidance."""


def distillation_loss(
    model: nn.Module, batch: Batch, draws: Draws, config: DistillationConfig, loss: LossConfig, dtype: torch.dtype
) -> StepLoss:
    """The loss of one micro-batch: the student's velocity against the line that the teacher's way amounts to.

    Args:
        model: FantasyTalkingTransformer3DModel with LoRA and guidance embedder, wrapped or not.
        batch, draws: on the model's device.
        dtype: of what the model is given.
    """
    asked = ask(draws, config)
    begin, end = (shifted(asked.start - part, config.shift).float() for part in (0, 1 / config.windows))
    conditions = batch.conditions.to(dtype=dtype)
    noisy = add_noise(batch.latents, draws.noise, begin)
    with torch.no_grad(), lora_off(model):
        arrived = follow_teacher(model, noisy, conditions, asked, config, dtype)
    velocity = (noisy - arrived) / _wide(begin - end)

    sigmas = torch.lerp(begin, end, asked.place.float())
    on_the_line = noisy - _wide(begin - sigmas) * velocity
    told = conditions._replace(guidance=asked.scales.to(dtype))
    prediction = model(on_the_line.to(dtype), sigmas * TIMESTEPS, told, return_dict=False)[0]
    weight = loss_weight(batch.lip_mask, draws, loss)
    return StepLoss(velocity_loss(prediction, velocity, weight, loss.normalisation), sigmas)


def ask(draws: Draws, config: DistillationConfig) -> Asked:
    """What the random numbers of a step ask of each clip: any window and scales, `at_start` of them at its start."""
    position = draws.sigma.double() * config.windows
    window = position.floor().clamp_max(config.windows - 1)
    inside = position - window
    place = ((inside - config.at_start) / max(1 - config.at_start, 1e-6)).clamp(0, 1)
    low, high = draws.guidance.new_tensor([config.text, config.audio]).unbind(dim=1)
    return Asked(1 - window / config.windows, place, torch.lerp(low, high, draws.guidance))


def follow_teacher(
    model: nn.Module,
    noisy: Tensor,
    conditions: Conditions,
    asked: Asked,
    config: DistillationConfig,
    dtype: torch.dtype,
) -> Tensor:
    """(B, 16, F, h, w) where the guided model comes from `noisy` by the end of the window, by Euler's steps.

    They are those that the pipeline takes in a video of `windows` times `teacher_steps` steps. Nothing is kept from one
    call to the next, as the pipeline keeps keys and values: it would find them by the identity of tensors, which a
    sharded model's hooks do not keep, and save a few per cent.
    """
    text, audio = asked.scales.unbind(dim=1)
    weights = path_weights(config.formula, text, audio)
    branches = [(branch_conditions(conditions, branch), weight) for branch, weight in weights]
    stride = 1 / (config.windows * config.teacher_steps)
    latents = noisy
    for step in range(config.teacher_steps):
        here, there = (shifted(asked.start - (step + i) * stride, config.shift).float() for i in (0, 1))
        velocity = torch.zeros_like(latents)
        for told, weight in branches:
            sample = model(latents.to(dtype), here * TIMESTEPS, told, return_dict=False)[0]
            velocity = velocity + _wide(weight) * sample.float()
        latents = latents + _wide(there - here) * velocity
    return latents


def branch_conditions(conditions: Conditions, branch: Branch) -> Conditions:
    """What a guidance branch is told: without text, zeros as in dropout; without audio, its gate closed."""
    if not branch.text:
        conditions = conditions._replace(text=torch.zeros_like(conditions.text))
    if not branch.audio:
        conditions = conditions._replace(gate=conditions.gate * conditions.gate.new_tensor([0.0, 1.0]))
    return conditions


def _wide(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1, 1)

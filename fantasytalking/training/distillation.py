"""Stage 3: few steps, and guidance folded in, by piecewise rectified flow (PeRFlow, Yan et al., arXiv 2405.07510).

The way from noise to sample is cut into K windows. Within one the guided teacher is followed by small steps; the
student learns the straight line from where that began to where it ended, in one call that is told the guidance scales
(Meng et al., arXiv 2210.03142). K steps of the student then stand for K times `teacher_steps_per_window` guided ones.

Teacher and student are one network: without its LoRA and not told the scales, it is the teacher.

Axes: B clips, F latent frames, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.checkpoints.lora import lora_disabled
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, shift_sigmas, velocity_loss
from fantasytalking.models.cfg_branches import GuidanceBranch, cfg_branch_weights
from fantasytalking.training.config import DistillationConfig, LossConfig
from fantasytalking.training.losses import StepLoss, loss_weight
from fantasytalking.training.rng import StepRandomness


class SegmentSample(NamedTuple):
    """Which part of the way each clip is about, and with which guidance."""

    start: Tensor
    """(B,) position at which the window begins, float64: 1 = noise, 0 = sample, before the shift."""
    fraction: Tensor
    """(B,) how far into the window the student is asked, in noise levels: 0 = at its start."""
    guidance_scales: Tensor
    """(B, 2) of text and audio guidance."""


def distillation_loss(
    model: nn.Module,
    batch: TrainingBatch,
    randomness: StepRandomness,
    config: DistillationConfig,
    loss: LossConfig,
    dtype: torch.dtype,
) -> StepLoss:
    """The loss of one micro-batch: the student's velocity against the line that the teacher's way amounts to.

    Args:
        model: FantasyTalkingTransformer3DModel with LoRA and guidance embedder, wrapped or not.
        batch, draws: on the model's device.
        dtype: of what the model is given.
    """
    asked = sample_segments(randomness, config)
    begin, end = (shift_sigmas(asked.start - part, config.flow_shift).float() for part in (0, 1 / config.num_windows))
    conditions = batch.conditions.to(dtype=dtype)
    noisy = add_noise(batch.latents, randomness.noise, begin)
    with torch.no_grad(), lora_disabled(model):
        arrived = integrate_teacher(model, noisy, conditions, asked, config, dtype)
    velocity = (noisy - arrived) / _broadcast(begin - end)

    sigmas = torch.lerp(begin, end, asked.fraction.float())
    on_the_line = noisy - _broadcast(begin - sigmas) * velocity
    told = conditions._replace(guidance=asked.guidance_scales.to(dtype))
    prediction = model(on_the_line.to(dtype), sigmas * NUM_TRAIN_TIMESTEPS, told, return_dict=False)[0]
    weight = loss_weight(batch.lip_mask, randomness, loss)
    return StepLoss(velocity_loss(prediction, velocity, weight, loss.normalization), sigmas)


def sample_segments(randomness: StepRandomness, config: DistillationConfig) -> SegmentSample:
    """What the random numbers of a step ask of each clip: any window and scales, `window_start_fraction` of them at its
    start."""
    position = randomness.sigma_uniform.double() * config.num_windows
    window = position.floor().clamp_max(config.num_windows - 1)
    inside = position - window
    place = ((inside - config.window_start_fraction) / max(1 - config.window_start_fraction, 1e-6)).clamp(0, 1)
    low, high = randomness.guidance_uniform.new_tensor(
        [config.text_guidance_range, config.audio_guidance_range]
    ).unbind(dim=1)
    return SegmentSample(1 - window / config.num_windows, place, torch.lerp(low, high, randomness.guidance_uniform))


def integrate_teacher(
    model: nn.Module,
    noisy: Tensor,
    conditions: Conditions,
    segments: SegmentSample,
    config: DistillationConfig,
    dtype: torch.dtype,
) -> Tensor:
    """(B, 16, F, h, w) where the guided model comes from `noisy` by the end of the window, by Euler's steps.

    They are those that the pipeline takes in a video of `num_windows` times `teacher_steps_per_window` steps. Nothing
    is kept from one
    call to the next, as the pipeline keeps keys and values: it would find them by the identity of tensors, which a
    sharded model's hooks do not keep, and save a few per cent.
    """
    text, audio = segments.guidance_scales.unbind(dim=1)
    weights = cfg_branch_weights(config.guidance_order, text, audio)
    branches = [(branch_conditions(conditions, branch), weight) for branch, weight in weights]
    stride = 1 / (config.num_windows * config.teacher_steps_per_window)
    latents = noisy
    for step in range(config.teacher_steps_per_window):
        here, there = (shift_sigmas(segments.start - (step + i) * stride, config.flow_shift).float() for i in (0, 1))
        velocity = torch.zeros_like(latents)
        for told, weight in branches:
            sample = model(latents.to(dtype), here * NUM_TRAIN_TIMESTEPS, told, return_dict=False)[0]
            velocity = velocity + _broadcast(weight) * sample.float()
        latents = latents + _broadcast(there - here) * velocity
    return latents


def branch_conditions(conditions: Conditions, branch: GuidanceBranch) -> Conditions:
    """What a guidance branch is told: without text, zeros as in dropout; without audio, its gate closed."""
    if not branch.text:
        conditions = conditions._replace(prompt_embeds=torch.zeros_like(conditions.prompt_embeds))
    if not branch.audio:
        conditions = conditions._replace(
            condition_scale=conditions.condition_scale * conditions.condition_scale.new_tensor([0.0, 1.0])
        )
    return conditions


def _broadcast(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1, 1)

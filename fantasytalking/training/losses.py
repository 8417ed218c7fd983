"""The loss of a stage: conditions dropped, noise added, velocity predicted, error weighted.

Axes: B clips, F latent frames, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, flow_matching_loss, sample_sigmas
from fantasytalking.training.config import DropoutConfig, LossConfig, LossWeight, MaskSampling, ReferenceDropoutTarget
from fantasytalking.training.rng import StepRandomness


class StepLoss(NamedTuple):
    """Of some clips."""

    loss: Tensor
    """(B,) with gradient."""
    sigmas: Tensor
    """(B,) noise levels."""


def stage_loss(
    model: nn.Module,
    batch: TrainingBatch,
    randomness: StepRandomness,
    loss: LossConfig,
    dropout: DropoutConfig,
    dtype: torch.dtype,
) -> StepLoss:
    """The loss of one micro-batch.

    Args:
        model: FantasyTalkingTransformer3DModel, wrapped or not.
        batch, draws: on the model's device.
        dtype: of what the model is given.
    """
    conditions = drop_conditions(batch.conditions, randomness.dropout_uniform, dropout)
    sigmas = sample_sigmas(randomness.sigma_uniform, loss.sigmas)
    noisy = add_noise(batch.latents, randomness.noise, sigmas)
    prediction = model(noisy.to(dtype), sigmas * NUM_TRAIN_TIMESTEPS, conditions.to(dtype=dtype), return_dict=False)[0]
    weight = loss_weight(batch.lip_mask, randomness, loss)
    return StepLoss(flow_matching_loss(prediction, batch.latents, randomness.noise, weight, loss.normalization), sigmas)


def loss_weight(lip_mask: Tensor, randomness: StepRandomness, config: LossConfig) -> Tensor | None:
    """M where p > eta, 1 elsewhere (paper section 3.2): (B, 1, F, h, w), or None when all is weighted alike."""
    if config.weight is LossWeight.uniform:
        return None
    p = randomness.mask_uniform if config.mask_sampling is MaskSampling.sample else randomness.step_mask_uniform
    masked = (p > config.eta).view(-1, 1, 1, 1, 1)
    return torch.where(masked, lip_mask, torch.ones_like(lip_mask))


def drop_conditions(conditions: Conditions, uniforms: Tensor, config: DropoutConfig) -> Conditions:
    """Leaves out reference, audio, prompt and expression, each where its number in `uniforms` is below its share.

    Args:
        uniforms: (B, 4) in that order.
    """
    shares = uniforms.new_tensor([config.reference, config.audio, config.prompt, config.expression])
    reference, audio, prompt, driven = (
        (uniforms >= shares).to(conditions.condition_scale).unbind(dim=1)
    )  # (B,) 1 = kept
    face = torch.ones_like(reference) if config.reference_target is ReferenceDropoutTarget.image else reference
    picture = torch.ones_like(reference) if config.reference_target is ReferenceDropoutTarget.face else reference
    image, expression = conditions.image_embeds, conditions.expression
    return conditions._replace(
        prompt_embeds=conditions.prompt_embeds * prompt[:, None, None],
        image_embeds=None if image is None else image * picture[:, None, None],
        image_latents=conditions.image_latents * picture[:, None, None, None, None],
        condition_scale=conditions.condition_scale * torch.stack([audio, face], dim=1),
        expression=None if expression is None else expression._replace(scale=expression.scale * driven),
    )

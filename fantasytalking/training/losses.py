"""The loss of a stage: conditions dropped, noise added, velocity predicted, error weighted.

Axes: B clips, F latent frames, h and w latent height and width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import Batch
from fantasytalking.flow_matching import TIMESTEPS, add_noise, flow_matching_loss, sample_sigmas
from fantasytalking.training.config import Draw, DropoutConfig, LossConfig, LossWeight, ReferenceDropout
from fantasytalking.training.rng import Draws


class StepLoss(NamedTuple):
    """Of some clips."""

    loss: Tensor
    """(B,) with gradient."""
    sigmas: Tensor
    """(B,) noise levels."""


def stage_loss(
    model: nn.Module, batch: Batch, draws: Draws, loss: LossConfig, dropout: DropoutConfig, dtype: torch.dtype
) -> StepLoss:
    """The loss of one micro-batch.

    Args:
        model: FantasyTalkingTransformer3DModel, wrapped or not.
        batch, draws: on the model's device.
        dtype: of what the model is given.
    """
    conditions = drop_conditions(batch.conditions, draws.dropout, dropout)
    sigmas = sample_sigmas(draws.sigma, loss.sigmas)
    noisy = add_noise(batch.latents, draws.noise, sigmas)
    prediction = model(noisy.to(dtype), sigmas * TIMESTEPS, conditions.to(dtype=dtype), return_dict=False)[0]
    weight = loss_weight(batch.lip_mask, draws, loss)
    return StepLoss(flow_matching_loss(prediction, batch.latents, draws.noise, weight, loss.normalisation), sigmas)


def loss_weight(lip_mask: Tensor, draws: Draws, config: LossConfig) -> Tensor | None:
    """M where p > eta, 1 elsewhere (paper section 3.2): (B, 1, F, h, w), or None when all is weighted alike."""
    if config.weight is LossWeight.uniform:
        return None
    p = draws.mask if config.draw is Draw.sample else draws.mask_of_step
    masked = (p > config.eta).view(-1, 1, 1, 1, 1)
    return torch.where(masked, lip_mask, torch.ones_like(lip_mask))


def drop_conditions(conditions: Conditions, uniforms: Tensor, config: DropoutConfig) -> Conditions:
    """Leaves out reference, audio, prompt and expression, each where its number in `uniforms` is below its share.

    Args:
        uniforms: (B, 4) in that order.
    """
    shares = uniforms.new_tensor([config.reference, config.audio, config.prompt, config.expression])
    reference, audio, prompt, driven = (uniforms >= shares).to(conditions.gate).unbind(dim=1)  # (B,) 1 = kept
    face = torch.ones_like(reference) if config.reference_drops is ReferenceDropout.image else reference
    picture = torch.ones_like(reference) if config.reference_drops is ReferenceDropout.face else reference
    image, expression = conditions.image, conditions.expression
    return conditions._replace(
        text=conditions.text * prompt[:, None, None],
        image=None if image is None else image * picture[:, None, None],
        latents=conditions.latents * picture[:, None, None, None, None],
        gate=conditions.gate * torch.stack([audio, face], dim=1),
        expression=None if expression is None else expression._replace(gate=expression.gate * driven),
    )

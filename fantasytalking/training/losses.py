"""Flow matching loss with condition dropout and the lip-mask weight (paper section 3.2).

Axes: B clips, F latent frames, h and w latent height and width.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fantasytalking.conditions import Conditions, RegisteredValue
from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import (
    FULL_SIGMA_RANGE,
    NUM_TRAIN_TIMESTEPS,
    add_noise,
    flow_matching_loss,
    sample_sigmas,
)
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.rng import StepRandomness
from fantasytalking.training.stage_config import (
    DROPOUT_NAMES,
    DropoutConfig,
    LossConfig,
    LossWeight,
    MaskSampling,
    ReferenceDropoutTarget,
)


class StepLoss(NamedTuple):
    """Loss of a micro-batch."""

    loss: Tensor
    """(B,) with gradient."""
    sigmas: Tensor
    """(B,) noise levels in [0, 1]."""
    masked: Tensor
    """(B,) bool: whether the loss counts the lips only."""


class FlowMatchingObjective:
    """Drops conditions, adds noise, predicts the velocity and weights its squared error.

    Implements `fantasytalking.training.objectives.Objective`.

    Args:
        sigma_range: noise levels that the trained transformer predicts.
    """

    uses_teacher = False

    def __init__(
        self,
        loss: LossConfig,
        dropout: DropoutConfig,
        sigma_range: tuple[float, float] = FULL_SIGMA_RANGE,
        registered_dropout: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._loss, self._dropout, self._sigma_range = loss, dropout, sigma_range
        self._registered_dropout = registered_dropout

    def add_modules(self, model: FantasyTalkingTransformer3DModel) -> None:
        """Adds nothing."""

    def compute_loss(
        self, model: nn.Module, batch: TrainingBatch, randomness: StepRandomness, dtype: torch.dtype
    ) -> StepLoss:
        """Returns the loss of a micro-batch; see `Objective.compute_loss`."""
        uniforms = randomness.dropout_uniform
        conditions = drop_conditions(batch.conditions, uniforms, self._dropout, self._registered_dropout)
        conditions = conditions.to(dtype=dtype)
        sigmas = sample_sigmas(randomness.sigma_uniform, self._loss.sigmas, self._sigma_range)
        noisy = add_noise(batch.latents, randomness.noise, sigmas).to(dtype)
        velocity = model(noisy, sigmas * NUM_TRAIN_TIMESTEPS, conditions, return_dict=False)[0]
        weight = loss_weight(batch.lip_mask, randomness, self._loss)
        start = batch.num_given_frames
        loss = flow_matching_loss(
            velocity[:, :, start:],
            batch.latents[:, :, start:],
            randomness.noise[:, :, start:],
            None if weight is None else weight[:, :, start:],
            self._loss.normalization,
        )
        return StepLoss(loss, sigmas, is_masked(randomness, self._loss))


def is_masked(randomness: StepRandomness, config: LossConfig) -> Tensor:
    """Returns for which clips the loss is multiplied by the lip mask, p > eta (paper section 3.2): (B,) bool."""
    p = randomness.mask_uniform if config.mask_sampling is MaskSampling.sample else randomness.step_mask_uniform
    return torch.zeros_like(p, dtype=torch.bool) if config.weight is LossWeight.uniform else p > config.eta


def loss_weight(lip_mask: Tensor, randomness: StepRandomness, config: LossConfig) -> Tensor | None:
    """Returns M where p > eta and 1 elsewhere (paper section 3.2): (B, 1, F, h, w), or None for a uniform weight."""
    if config.weight is LossWeight.uniform:
        return None
    masked = is_masked(randomness, config).view(-1, 1, 1, 1, 1)
    return torch.where(masked, lip_mask, torch.ones_like(lip_mask))


def drop_conditions(
    conditions: Conditions,
    uniforms: Mapping[str, Tensor],
    config: DropoutConfig,
    registered: Mapping[str, float] = MappingProxyType({}),
) -> Conditions:
    """Drops each condition of a clip where the uniform number of its name is below the probability of that name.

    Args:
        uniforms: (B,) in [0, 1) by key of `config` (`ConditionSpec.dropout`) and of `registered`.
        registered: probabilities of registered conditions, by name.
    """
    probabilities = {name: getattr(config, name) for name in DROPOUT_NAMES} | dict(registered)
    kept = {
        name: (uniforms[name] >= uniforms[name].new_tensor(probability)).to(conditions.condition_scale)
        for name, probability in probabilities.items()
    }  # (B,) 1 = kept
    target, reference = config.reference_target, kept["reference"]
    face = torch.ones_like(reference) if target is ReferenceDropoutTarget.image else reference
    first_frame = torch.ones_like(reference) if target is ReferenceDropoutTarget.face else reference
    image, expression = conditions.image_embeds, conditions.expression
    return conditions._replace(
        prompt_embeds=conditions.prompt_embeds * kept["prompt"][:, None, None],
        image_embeds=None if image is None else image * first_frame[:, None, None],
        image_latents=conditions.image_latents * first_frame[:, None, None, None, None],
        condition_scale=conditions.condition_scale * torch.stack([kept["audio"], face], dim=1),
        expression=None if expression is None else expression._replace(scale=expression.scale * kept["expression"]),
        registered=None
        if conditions.registered is None
        else {
            name: RegisteredValue(value, scale * kept[name] if name in kept else scale)
            for name, (value, scale) in conditions.registered.items()
        },
    )

"""Training methods by name: `stage.objective` selects one of `OBJECTIVES`."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from fantasytalking.data.collate import TrainingBatch
from fantasytalking.flow_matching import FULL_SIGMA_RANGE
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.distillation import DistillationObjective
from fantasytalking.training.losses import FlowMatchingObjective, StepLoss
from fantasytalking.training.rng import StepRandomness
from fantasytalking.training.stage_config import ObjectiveType, StageConfig


class Objective(Protocol):
    """A training method: the modules it adds, the weights it requires and its loss."""

    uses_teacher: bool
    """Whether the initial weights also serve as the teacher, which must then be free of LoRA layers."""

    def add_modules(self, model: FantasyTalkingTransformer3DModel) -> None:
        """Adds the modules that this method trains, before the stage's parameters are selected."""

    def compute_loss(
        self, model: nn.Module, batch: TrainingBatch, randomness: StepRandomness, dtype: torch.dtype
    ) -> StepLoss:
        """Returns the loss (B,) and noise levels (B,) of a micro-batch of B clips.

        Args:
            model: FantasyTalkingTransformer3DModel, wrapped or not.
            batch, randomness: on the model's device.
            dtype: type of the model's inputs.
        """


SigmaRange = tuple[float, float]


def _flow_matching(stage: StageConfig, sigma_range: SigmaRange) -> FlowMatchingObjective:
    registered = {name: condition.dropout for name, condition in stage.conditions.items()}
    return FlowMatchingObjective(stage.loss, stage.dropout, sigma_range, registered)


def _distillation(stage: StageConfig, sigma_range: SigmaRange) -> DistillationObjective:
    assert stage.distillation is not None and sigma_range == FULL_SIGMA_RANGE, "validated with the configuration"
    return DistillationObjective(stage.distillation, stage.loss)


OBJECTIVES: dict[ObjectiveType, Callable[[StageConfig, SigmaRange], Objective]] = {
    ObjectiveType.flow_matching: _flow_matching,
    ObjectiveType.distillation: _distillation,
}
"""Constructor of each training method from a stage's configuration and the noise levels that are trained."""


def build_objective(stage: StageConfig, sigma_range: SigmaRange = FULL_SIGMA_RANGE) -> Objective:
    """Returns the training method of a stage.

    Args:
        sigma_range: noise levels that the trained transformer predicts (`TrainConfig.sigma_range`).
    """
    return OBJECTIVES[stage.resolved_objective](stage, sigma_range)

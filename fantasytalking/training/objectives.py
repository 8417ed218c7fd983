"""Training methods by name: `stage.objective` selects one of `OBJECTIVES`."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from fantasytalking.data.collate import TrainingBatch
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


def _distillation(stage: StageConfig) -> DistillationObjective:
    assert stage.distillation is not None, "validated with the configuration"
    return DistillationObjective(stage.distillation, stage.loss)


OBJECTIVES: dict[ObjectiveType, Callable[[StageConfig], Objective]] = {
    ObjectiveType.flow_matching: lambda stage: FlowMatchingObjective(stage.loss, stage.dropout),
    ObjectiveType.distillation: _distillation,
}
"""Constructor of each training method from a stage's configuration."""


def build_objective(stage: StageConfig) -> Objective:
    """Returns the training method of a stage."""
    return OBJECTIVES[stage.resolved_objective](stage)

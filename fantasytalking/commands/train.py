"""What the training scripts run: training, with what lies above it brought along.

Both are imported only when they are wanted: they need the pipeline and the perception packages.
"""

from typing import TYPE_CHECKING

from fantasytalking.training.cli import train
from fantasytalking.training.config import TrainConfig

if TYPE_CHECKING:
    from fantasytalking.inference.validation_sampler import PipelineValidationSampler


def run_training(stage: str, description: str) -> None:
    """Trains a stage: see `fantasytalking.training.cli.train`."""
    train(stage, description, _build_sampler, _build_corpus)


def _build_sampler(config: TrainConfig) -> "PipelineValidationSampler":
    from fantasytalking.inference.validation_sampler import PipelineValidationSampler

    return PipelineValidationSampler(config)


def _build_corpus(config: TrainConfig) -> None:
    from fantasytalking.nano.bootstrap_corpus import bootstrap_corpus

    bootstrap_corpus(config)

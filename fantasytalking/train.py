"""What the training scripts run: training, with what lies above it brought along.

Both are imported only when they are wanted: they need the pipeline and the perception packages.
"""

from typing import TYPE_CHECKING

from fantasytalking.training.cli import train
from fantasytalking.training.config import TrainConfig

if TYPE_CHECKING:
    from fantasytalking.inference.validation_sampler import PortraitValidation


def run(stage: str, description: str) -> None:
    """Trains a stage: see `fantasytalking.training.cli.train`."""
    train(stage, description, _sampler, _corpus)


def _sampler(config: TrainConfig) -> "PortraitValidation":
    from fantasytalking.inference.validation_sampler import PortraitValidation

    return PortraitValidation(config)


def _corpus(config: TrainConfig) -> None:
    from fantasytalking.nano.bootstrap_corpus import make_first_corpus

    make_first_corpus(config)

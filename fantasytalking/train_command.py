"""What the two training scripts run: training, with what lies above it brought along."""

from typing import TYPE_CHECKING

from fantasytalking.training.cli import train
from fantasytalking.training.config import TrainConfig

if TYPE_CHECKING:
    from fantasytalking.validation import PortraitValidation


def run(stage: str, description: str) -> None:
    """Trains a stage: see `fantasytalking.training.cli.train`."""
    train(stage, description, _sampler)


def _sampler(config: TrainConfig) -> "PortraitValidation":
    # Imported only when it is wanted: it needs the pipeline and the perception packages.
    from fantasytalking.validation import PortraitValidation

    return PortraitValidation(config)

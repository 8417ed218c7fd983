"""The same correlations by the miniature's own reader of expressions, which knows people of the portrait world only."""

from pathlib import Path

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS, ExpressionReader
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import (
    ExpressionCorrelation,
    correlation_values,
)
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import NANO_READER_WEIGHTS

NANO_READER_NAME = "nano's reader"


class NanoReaderMixin(Metric):
    """Reads by what was fitted apart from the encoder of the drivers: to other people, and from landmarks."""

    required_weights = (NANO_READER_WEIGHTS,)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._reader = ExpressionReader.load(require_weights(self.required_weights[0], weights))

    def read_expressions(self, video: EvaluationClip) -> GroundTruth:
        """What is read of the one face in a clip, counted from its first frame: (T,) each, by the truth's names; NaN
        where no face is known."""
        return dict(zip(EXPRESSION_PARAMETERS, self._reader.read(video.track.landmarks).T, strict=True))


class NanoExpressionCorrelation(NanoReaderMixin, ExpressionCorrelation):
    """For the portrait world, whose people alone the reader knows."""

    name = "expression_truth_nano"
    values = correlation_values("expression_nano", NANO_READER_NAME)

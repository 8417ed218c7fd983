"""Expression correlation by nano's own expression reader, which only knows people of the portrait world."""

from pathlib import Path

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS, ExpressionReader
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metric import Metric, register_metric
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import (
    ExpressionCorrelation,
    correlation_values,
)
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import NANO_READER_WEIGHTS

NANO_READER_NAME = "nano's reader"


class NanoReaderMixin(Metric):
    """Estimates expressions by a reader trained on other people than the driving encoder, and from landmarks."""

    required_weights = (NANO_READER_WEIGHTS,)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._reader = ExpressionReader.load(require_weights(self.required_weights[0], weights))

    def read_expressions(self, video: EvaluationClip) -> GroundTruth:
        """Returns (T,) values relative to the first frame, by the keys of the ground truth; NaN without a face."""
        return dict(zip(EXPRESSION_PARAMETERS, self._reader.read(video.track.landmarks).T, strict=True))


@register_metric(rank=60)
class NanoExpressionCorrelation(NanoReaderMixin, ExpressionCorrelation):
    """Expression correlation for the portrait world, the only people that the reader knows."""

    name = "expression_truth_nano"
    values = correlation_values("expression_nano", NANO_READER_NAME)

"""The same correlations by the miniature's own reader of expressions, which knows people of the portrait world only."""

from pathlib import Path

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.ground_truth import Truth
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ExpressionTruth, truth_values
from fantasytalking.evaluation.networks.loading import located
from fantasytalking.evaluation.weights import NANO_READER
from fantasytalking.perception.expression_reader import NAMES, ExpressionReader

READER = "nano's reader"


class NanoReading(Metric):
    """Reads by what was fitted apart from the encoder of the drivers: to other people, and from landmarks."""

    needs = (NANO_READER,)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._reader = ExpressionReader.load(located(self.needs[0], weights))

    def read(self, video: Clip) -> Truth:
        """What is read of the one face in a clip, counted from its first frame: (T,) each, by the truth's names; NaN
        where no face is known."""
        return dict(zip(NAMES, self._reader.read(video.track.landmarks).T, strict=True))


class NanoExpressionTruth(NanoReading, ExpressionTruth):
    """For the portrait world, whose people alone the reader knows."""

    name = "expression_truth_nano"
    values = truth_values("expression_nano", READER)

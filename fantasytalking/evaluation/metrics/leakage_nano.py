"""The same table of people by drivers, by the miniature's own reader of expressions."""

from pathlib import Path

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.metrics.expression_truth_nano import READER, read_by
from fantasytalking.evaluation.metrics.leakage import Leakage, leakage_values
from fantasytalking.evaluation.networks.loading import located
from fantasytalking.evaluation.truth import Truth
from fantasytalking.evaluation.weights import NANO_READER
from fantasytalking.perception.expression_reader import ExpressionReader


class NanoLeakage(Leakage):
    """For the portrait world, whose people alone the reader knows."""

    name = "leakage_nano"
    values = leakage_values("leakage_nano", READER)
    needs = (NANO_READER,)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._reader = ExpressionReader.load(located(self.needs[0], weights))

    def read(self, video: Clip) -> Truth:
        """What is read of the one face in a clip, counted from its first frame."""
        return read_by(self._reader, video)

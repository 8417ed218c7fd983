"""The same table of people by drivers, by the miniature's own reader of expressions."""

from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import READER, NanoReading
from fantasytalking.evaluation.metrics.reenactment.leakage import Leakage, leakage_values


class NanoLeakage(NanoReading, Leakage):
    """For the portrait world, whose people alone the reader knows."""

    name = "leakage_nano"
    values = leakage_values("leakage_nano", READER)

"""The same table of people by drivers, by the miniature's own reader of expressions."""

from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NANO_READER_NAME, NanoReaderMixin
from fantasytalking.evaluation.metrics.reenactment.leakage import ExpressionLeakage, leakage_values


class NanoLeakage(NanoReaderMixin, ExpressionLeakage):
    """For the portrait world, whose people alone the reader knows."""

    name = "leakage_nano"
    values = leakage_values("leakage_nano", NANO_READER_NAME)

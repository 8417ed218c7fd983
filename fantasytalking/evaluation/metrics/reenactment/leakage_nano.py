"""Leakage of expressions between people, by nano's own expression reader."""

from fantasytalking.evaluation.metric import register_metric
from fantasytalking.evaluation.metrics.reenactment.expression_correlation_nano import NANO_READER_NAME, NanoReaderMixin
from fantasytalking.evaluation.metrics.reenactment.leakage import ExpressionLeakage, leakage_values


@register_metric(rank=80)
class NanoLeakage(NanoReaderMixin, ExpressionLeakage):
    """Leakage for the portrait world, the only people that the reader knows."""

    name = "leakage_nano"
    values = leakage_values("leakage_nano", NANO_READER_NAME)

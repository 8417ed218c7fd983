"""CSIM by nano's own face network, which only knows people of the portrait world."""

from fantasytalking.evaluation.metric import MetricCurve, MetricValue, register_metric
from fantasytalking.evaluation.metrics.identity.csim import CSIM
from fantasytalking.evaluation.weights import NANO_FACE_WEIGHTS


@register_metric(rank=100)
class NanoCSIM(CSIM):
    """CSIM for the portrait world; not comparable with CSIM in papers."""

    name = "csim_nano"
    values = (
        MetricValue(
            "csim_nano", "", "higher", "Cosine of embeddings by nano's face network to the reference's first frame."
        ),
        MetricValue(
            "csim_nano_drift", "1/s", "higher", "Change of that cosine over time; below 0: the identity is being lost."
        ),
    )
    required_weights = (NANO_FACE_WEIGHTS,)
    curves = (MetricCurve("csim_nano_curve", "", "Cosine by nano's face network to the reference's first frame."),)

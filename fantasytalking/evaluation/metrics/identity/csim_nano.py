"""The same measure as CSIM by the miniature's own face network, which knows people of the portrait world only."""

from fantasytalking.evaluation.metric import MetricCurve, MetricValue
from fantasytalking.evaluation.metrics.identity.csim import CSIM
from fantasytalking.evaluation.weights import NANO_FACE_WEIGHTS


class NanoCSIM(CSIM):
    """For the portrait world; no number of any paper, and never to be called CSIM."""

    name = "csim_nano"
    values = (
        MetricValue(
            "csim_nano", "", "higher", "Cosine of embeddings by nano's face network to the reference's first frame."
        ),
        MetricValue(
            "csim_nano_drift", "1/s", "higher", "Change of that cosine with time; below 0: the person is lost."
        ),
    )
    required_weights = (NANO_FACE_WEIGHTS,)
    curves = (MetricCurve("csim_nano_curve", "", "Cosine by nano's face network to the reference's first frame."),)

"""Expression and body intensity of the output, in the units of the model's motion control (paper section 3.3)."""

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric
from fantasytalking.perception.motion_intensity import measure_motion


@register_metric(rank=270)
class OutputMotionIntensity(MeanMetric):
    """w_l and w_b as measured for training, before normalization, in 1/1000 of squared eye distances."""

    name = "motion"
    values = (
        MetricValue("motion_expression", "1e-3", "reference", "Variance of brows, eyelids and lips, without the head."),
        MetricValue("motion_body", "1e-3", "reference", "Variance of the head pose and the visible joints."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns both; NaN if the face is known for less than half a second."""
        if not video.has_face:
            return self.not_measurable()
        try:
            measured = measure_motion(video.track, video.body_track)
        except InputError:
            return self.not_measurable()
        return {"motion_expression": np.array(1e3 * measured.expression), "motion_body": np.array(1e3 * measured.body)}

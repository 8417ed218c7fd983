"""Color difference between the first frame and the portrait: strong audio guidance can tint the first frame."""

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, MetricValue, PairedMetric, Target, register_metric
from fantasytalking.evaluation.metrics.quality.color_drift import mean_lab_colors


@register_metric(rank=300)
class FirstFrameShift(PairedMetric):
    """Distance in CIE Lab (delta E 1976) between the mean color of the first frame and that of the portrait."""

    name = "first_frame"
    values = (
        MetricValue("first_frame_shift", "dE", "lower", "Color of the first frame against the reference's first."),
    )
    target = Target.PORTRAIT

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the distance."""
        shift = mean_lab_colors(video.frames[:1]) - mean_lab_colors(reference.frames[:1])
        return {"first_frame_shift": np.array(np.linalg.norm(shift))}

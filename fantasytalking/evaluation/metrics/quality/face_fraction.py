"""Size of the face in the frame, on which the quality of a model depends."""

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric


@register_metric(rank=330)
class FaceFraction(MeanMetric):
    """Median height of the face, relative to the frame's; models know faces of the sizes that they were trained on."""

    name = "face_fraction"
    values = (MetricValue("face_fraction", "", "reference", "Height of the face, relative to the frame's."),)
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns it; NaN if there is no face."""
        if not video.has_face:
            return self.not_measurable()
        boxes = video.track.boxes
        return {"face_fraction": np.array(np.nanmedian(boxes[:, 3] - boxes[:, 1]) / video.track.height)}

"""Expression and body intensity of the output, in the units that the model is asked in (paper section 3.3)."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.perception.motion_intensity import measure_motion

_VALUE_NAMES = ("motion_expression", "motion_body")


class OutputMotionIntensity(Metric):
    """w_l and w_b as perception measures them for training, before normalisation, in 1/1000 squared eye distances."""

    name = "motion"
    values = (
        MetricValue(
            "motion_expression", "1e-3", "reference", "Variance of brows, lids and lips without the head's motion."
        ),
        MetricValue("motion_body", "1e-3", "reference", "Variance of the head's pose and the visible joints."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Both; NaN when the face is known for less than half a second."""
        if not video.has_face:
            return {name: np.array(np.nan) for name in _VALUE_NAMES}
        try:
            measured = measure_motion(video.track, video.body_track)
        except InputError:
            return {name: np.array(np.nan) for name in _VALUE_NAMES}
        return {"motion_expression": np.array(1e3 * measured.expression), "motion_body": np.array(1e3 * measured.body)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(measurements, _VALUE_NAMES)

"""Expression and body intensity of the output, in the units that the model is asked in (paper section 3.3)."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips
from fantasytalking.perception.motion_intensity import measure_motion

_NAMES = ("motion_expression", "motion_body")


class MotionIntensity(Metric):
    """w_l and w_b as perception measures them for training, before normalisation, in 1/1000 squared eye distances."""

    name = "motion"
    values = (
        Value("motion_expression", "1e-3", "reference", "Variance of brows, lids and lips without the head's motion."),
        Value("motion_body", "1e-3", "reference", "Variance of the head's pose and the visible joints."),
    )
    paired = False

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Both; NaN when the face is known for less than half a second."""
        if not video.has_face:
            return {name: np.array(np.nan) for name in _NAMES}
        try:
            measured = measure_motion(video.track, video.body)
        except InputError:
            return {name: np.array(np.nan) for name in _NAMES}
        return {"motion_expression": np.array(1e3 * measured.expression), "motion_body": np.array(1e3 * measured.body)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, _NAMES)

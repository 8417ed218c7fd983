"""AED: how differently the face is shaped by its expression from that of whoever drives it, at each moment."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.motion_intensity import EXPRESSION_LANDMARKS


class AverageExpressionDistance(DriverDistanceMetric):
    """Mean distance of brows, lids and lips by MediaPipe once pose and size of both heads are taken out.

    Papers take parameters of a face model and often do not say of which: no number of theirs can be compared. In
    cross-reenactment the faces differ whatever they do, and `aed` has that in it; centred, each video's mean face is
    taken out, and with it an expression that never changes.
    """

    name = "aed"
    values = (
        MetricValue(
            "aed", "eye distances", "lower", "Expression distance by MediaPipe's brows, lids and lips, pose out."
        ),
        MetricValue("aed_centred", "eye distances", "lower", "The same with each video's mean face taken out."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Where the face is known."""
        return clip.track.known

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """(T, N, 2) places of the expressive points in the upright head."""
        places: NDArray[np.float64] = head_pose(clip.track.landmarks).local_landmarks[:, EXPRESSION_LANDMARKS, :2]
        return places

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Of points."""
        return float(np.linalg.norm(generated - driving, axis=-1).mean())

"""AED: distance between the expression of the generated face and that of the driving face, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.motion_intensity import EXPRESSION_LANDMARKS


@register_metric(rank=220)
class AverageExpressionDistance(DriverDistanceMetric):
    """Mean distance of brows, eyelids and lips by MediaPipe, with pose and size of both heads removed.

    Papers use parameters of a face model and often do not say of which: their numbers are not comparable. In
    cross-reenactment the faces themselves differ, and `aed` includes that. `aed_centred` removes the mean face of each
    video, and with it an expression that never changes.
    """

    name = "aed"
    values = (
        MetricValue(
            "aed", "eye distances", "lower", "Expression distance by MediaPipe's brows, eyelids and lips, without pose."
        ),
        MetricValue("aed_centred", "eye distances", "lower", "The same without each video's mean face."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Returns (T,) whether the face is known."""
        return clip.track.known

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """Returns (T, N, 2) positions of the expression landmarks in the upright head."""
        points: NDArray[np.float64] = head_pose(clip.track.landmarks).local_landmarks[:, EXPRESSION_LANDMARKS, :2]
        return points

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Returns the mean distance of points."""
        return float(np.linalg.norm(generated - driving, axis=-1).mean())

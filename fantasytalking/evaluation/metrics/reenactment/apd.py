"""APD: difference between the head pose of the generated and of the driving face, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose


@register_metric(rank=230)
class AveragePoseDistance(DriverDistanceMetric):
    """Mean absolute difference of yaw, pitch and roll, as `head_pose` estimates them from MediaPipe's mesh.

    The estimated pitch has an offset that depends on the face. `apd` includes it when two people are compared;
    `apd_centred` removes the mean angles of each video.
    """

    name = "apd"
    values = (
        MetricValue("apd", "degrees", "lower", "Mean difference of yaw, pitch and roll by MediaPipe's mesh."),
        MetricValue("apd_centred", "degrees", "lower", "The same without each video's mean angles."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Returns (T,) whether the face is known."""
        return clip.track.known

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """Returns (T, 3) yaw, pitch and roll in degrees."""
        return np.degrees(head_pose(clip.track.landmarks).angles)

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Returns the mean absolute difference of angles in degrees."""
        return float(np.abs(generated - driving).mean())

"""APD: how differently the head is turned from that of whoever drives it, at each moment."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose


class AveragePoseDistance(DriverDistanceMetric):
    """Mean absolute difference of yaw, pitch and roll, as `head_pose` reads them from MediaPipe's mesh.

    The pitch that it reads has an offset of each face's own, which `apd` has in it where two people are compared;
    centred, each video's mean angles are taken out.
    """

    name = "apd"
    values = (
        MetricValue("apd", "degrees", "lower", "Difference of yaw, pitch and roll by MediaPipe's mesh, their mean."),
        MetricValue("apd_centred", "degrees", "lower", "The same with each video's mean angles taken out."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Where the face is known."""
        return clip.track.known

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """(T, 3) yaw, pitch and roll in degrees."""
        return np.degrees(head_pose(clip.track.landmarks).angles)

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Of angles."""
        return float(np.abs(generated - driving).mean())

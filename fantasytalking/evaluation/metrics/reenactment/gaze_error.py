"""Gaze error: angle between the gaze of the generated and of the driving face, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.landmark_expressions import eyes_open, gaze_from_iris, iris_offset
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose


@register_metric(rank=210)
class GazeError(DriverDistanceMetric):
    """Mean angle between both gazes relative to the head, over the frames in which both pairs of eyes are open.

    The gaze is estimated from MediaPipe's iris: its offset from the middle of the eye's corners, with the pose removed,
    over the eyeball's radius is the sine of the angle (see `gaze_from_iris`). The resting positions of two people
    differ: `gaze_error_centred` removes the mean position of each video. Papers use other estimators.
    """

    name = "gaze"
    values = (
        MetricValue(
            "gaze_error", "degrees", "lower", "Angle between gazes relative to the head by MediaPipe's irises."
        ),
        MetricValue("gaze_error_centred", "degrees", "lower", "The same without each video's mean gaze."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Returns (T,) whether both eyes are open."""
        return eyes_open(clip.track)

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """Returns (T, 2) iris positions in the upright head."""
        return iris_offset(head_pose(clip.track.landmarks))

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Returns the mean angle in degrees between the gazes of iris positions."""
        first, second = gaze_from_iris(generated), gaze_from_iris(driving)
        # For small angles the sine is accurate where the cosine is not.
        sine, cosine = np.linalg.norm(np.cross(first, second), axis=1), (first * second).sum(axis=1)
        return float(np.degrees(np.arctan2(sine, cosine)).mean())

"""Gaze error: the angle between where the eyes look and where those of whoever drives them do, at each moment."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.landmark_expressions import eyes_open, gaze_from_iris, iris_offset
from fantasytalking.evaluation.metric import MetricValue
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DriverDistanceMetric
from fantasytalking.perception.head_pose import head_pose


class GazeError(DriverDistanceMetric):
    """Mean angle between both gazes in the head, over the frames in which both pairs of eyes are open.

    The reader is MediaPipe's iris: its offset from the middle of the eye's corners, pose taken out, over the eyeball's
    radius is the sine of the angle (see `gaze_from_iris`). Eyes of two people rest at different places: centred, each
    video's mean place is taken out. Papers use other readers, and heads in place of eyes at times.
    """

    name = "gaze"
    values = (
        MetricValue("gaze_error", "degrees", "lower", "Angle between gazes in the head by MediaPipe's irises."),
        MetricValue("gaze_error_centred", "degrees", "lower", "The same with each video's mean gaze taken out."),
    )

    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Where both eyes are open."""
        return eyes_open(clip.track)

    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """(T, 2) places of the irises in the upright head."""
        return iris_offset(head_pose(clip.track.landmarks))

    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Degrees between the gazes of places of irises."""
        first, second = gaze_from_iris(generated), gaze_from_iris(driving)
        # Of small angles the sine is exact where the cosine is not.
        sine, cosine = np.linalg.norm(np.cross(first, second), axis=1), (first * second).sum(axis=1)
        return float(np.degrees(np.arctan2(sine, cosine)).mean())

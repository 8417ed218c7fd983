"""Gaze error: the angle between where the eyes look and where those of whoever drives them do, at each moment."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.landmark_expressions import eyes_seen, gaze_direction, iris_place
from fantasytalking.evaluation.metric import Value
from fantasytalking.evaluation.metrics.reenactment.base_reenactment import DrivenDistance
from fantasytalking.perception.head_pose import head_pose


class GazeError(DrivenDistance):
    """Mean angle between both gazes in the head, over the frames in which both pairs of eyes are open.

    The reader is MediaPipe's iris: its offset from the middle of the eye's corners, pose taken out, over the eyeball's
    radius is the sine of the angle (see `gaze_direction`). Eyes of two people rest at different places: centred, each
    video's mean place is taken out. Papers use other readers, and heads in place of eyes at times.
    """

    name = "gaze"
    values = (
        Value("gaze_error", "degrees", "lower", "Angle between gazes in the head by MediaPipe's irises."),
        Value("gaze_error_centred", "degrees", "lower", "The same with each video's mean gaze taken out."),
    )

    def seen(self, clip: Clip) -> NDArray[np.bool_]:
        """Where both eyes are open."""
        return eyes_seen(clip.track)

    def read(self, clip: Clip) -> NDArray[np.float64]:
        """(T, 2) places of the irises in the upright head."""
        return iris_place(head_pose(clip.track.landmarks))

    def distance(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        """Degrees between the gazes of places of irises."""
        first, second = gaze_direction(one), gaze_direction(other)
        # Of small angles the sine is exact where the cosine is not.
        sine, cosine = np.linalg.norm(np.cross(first, second), axis=1), (first * second).sum(axis=1)
        return float(np.degrees(np.arctan2(sine, cosine)).mean())

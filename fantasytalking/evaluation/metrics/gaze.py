"""Gaze error: the angle between where the eyes look and where those of whoever drives them do, at each moment."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.landmark_reading import eyes_seen, gaze_direction, iris_place
from fantasytalking.evaluation.metric import Against, Metric, Record, Value, mean_over_clips
from fantasytalking.perception.head_pose import head_pose

_NAMES = ("gaze_error", "gaze_error_centred")


class GazeError(Metric):
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
    paired = True
    against = Against.DRIVER
    driven = True
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Means over frames; NaN where no frame shows both gazes."""
        assert reference is not None
        both = eyes_seen(video.track) & eyes_seen(reference.track)
        if not both.any():
            return {name: np.array(np.nan) for name in _NAMES}
        ours, theirs = (iris_place(head_pose(clip.track.landmarks))[both] for clip in (video, reference))
        centred = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
        return {"gaze_error": _mean_angle(ours, theirs), "gaze_error_centred": _mean_angle(*centred)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, _NAMES)


def _mean_angle(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees between the gazes of (T, 2) places of irises."""
    first, second = gaze_direction(one), gaze_direction(other)
    # Of small angles the sine is exact where the cosine is not.
    sine, cosine = np.linalg.norm(np.cross(first, second), axis=1), (first * second).sum(axis=1)
    return np.array(np.degrees(np.arctan2(sine, cosine)).mean())

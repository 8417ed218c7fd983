"""AED: how differently the face is shaped by its expression from that of whoever drives it, at each moment."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.metric import Against, Metric, Record, Value, mean_over_clips
from fantasytalking.perception.head_pose import head_pose
from fantasytalking.perception.motion_intensity import EXPRESSIVE

_NAMES = ("aed", "aed_centred")


class ExpressionDistance(Metric):
    """Mean distance of brows, lids and lips by MediaPipe once pose and size of both heads are taken out.

    Papers take parameters of a face model and often do not say of which: no number of theirs can be compared. In
    cross-reenactment the faces differ whatever they do, and `aed` has that in it; centred, each video's mean face is
    taken out, and with it an expression that never changes.
    """

    name = "aed"
    values = (
        Value("aed", "eye distances", "lower", "Expression distance by MediaPipe's brows, lids and lips, pose out."),
        Value("aed_centred", "eye distances", "lower", "The same with each video's mean face taken out."),
    )
    paired = True
    against = Against.DRIVER
    driven = True
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Means over the frames in which both faces are known; NaN where there is none."""
        assert reference is not None
        both = video.track.known & reference.track.known
        if not both.any():
            return {name: np.array(np.nan) for name in _NAMES}
        ours, theirs = (_expression(clip)[both] for clip in (video, reference))
        centred = (ours - ours.mean(axis=0)) - (theirs - theirs.mean(axis=0))
        gaps = {"aed": ours - theirs, "aed_centred": centred}
        return {name: np.array(np.linalg.norm(gap, axis=-1).mean()) for name, gap in gaps.items()}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, _NAMES)


def _expression(clip: Clip) -> NDArray[np.float64]:
    """(T, N, 2) places of the expressive points in the upright head."""
    places: NDArray[np.float64] = head_pose(clip.track.landmarks).local[:, EXPRESSIVE, :2]
    return places

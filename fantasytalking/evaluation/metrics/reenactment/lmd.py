"""Landmark distance: how differently the face, and the mouth alone, is shaped from the reference's at each moment."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.theval_landmarks import LIPS
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips

_FACE = np.arange(468)


class LMD(Metric):
    """Mean distance of landmarks in the picture after moving their centres together, over the reference's distance of
    eyes (Chen et al. 2018, there in pixels and over the mouth). Frames count in which both faces are known."""

    name = "lmd"
    values = (
        Value("lmd", "eye distances", "lower", "Distance of face landmarks from the reference's, centres together."),
        Value("lmd_mouth", "eye distances", "lower", "The same over the lips, with the lips' centres together."),
    )
    paired = True
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Means over frames; NaN where no frame has both faces."""
        assert reference is not None
        ours, theirs = video.track.landmarks, reference.track.landmarks
        both = video.track.known & reference.track.known
        size = reference.track.interocular[both]
        if not both.any():
            return {"lmd": np.array(np.nan), "lmd_mouth": np.array(np.nan)}
        return {
            name: np.array((centred_distance(ours[both][:, points], theirs[both][:, points]) / size).mean())
            for name, points in (("lmd", _FACE), ("lmd_mouth", np.array(LIPS)))
        }

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, ("lmd", "lmd_mouth"))


def centred_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.floating]:
    """(T, N, 3) landmarks each to (T,) mean distances in the picture's plane, centres together."""
    plane_one, plane_other = one[..., :2], other[..., :2]
    plane_one = plane_one - plane_one.mean(axis=1, keepdims=True)
    plane_other = plane_other - plane_other.mean(axis=1, keepdims=True)
    return np.linalg.norm(plane_one - plane_other, axis=-1).mean(axis=1)

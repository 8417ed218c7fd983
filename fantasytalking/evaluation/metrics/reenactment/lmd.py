"""Landmark distance: how differently the face, and the mouth alone, is shaped from the reference's at each moment."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.theval_landmarks import LIPS
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

_FACE_POINTS = np.arange(468)


class LMD(Metric):
    """Mean distance of landmarks in the picture after moving their centres together, over the reference's distance of
    eyes (Chen et al. 2018, there in pixels and over the mouth). Frames count in which both faces are known."""

    name = "lmd"
    values = (
        MetricValue(
            "lmd", "eye distances", "lower", "Distance of face landmarks from the reference's, centres together."
        ),
        MetricValue("lmd_mouth", "eye distances", "lower", "The same over the lips, with the lips' centres together."),
    )
    paired = True
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Means over frames; NaN where no frame has both faces."""
        assert reference is not None
        ours, theirs = video.track.landmarks, reference.track.landmarks
        both = video.track.known & reference.track.known
        size = reference.track.interocular[both]
        if not both.any():
            return {"lmd": np.array(np.nan), "lmd_mouth": np.array(np.nan)}
        return {
            name: np.array((centered_distance(ours[both][:, points], theirs[both][:, points]) / size).mean())
            for name, points in (("lmd", _FACE_POINTS), ("lmd_mouth", np.array(LIPS)))
        }

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(measurements, ("lmd", "lmd_mouth"))


def centered_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """(T, N, 3) landmarks each to (T,) mean distances in the picture's plane, centres together."""
    plane_one, plane_other = first[..., :2], second[..., :2]
    plane_one = plane_one - plane_one.mean(axis=1, keepdims=True)
    plane_other = plane_other - plane_other.mean(axis=1, keepdims=True)
    return np.linalg.norm(plane_one - plane_other, axis=-1).mean(axis=1)

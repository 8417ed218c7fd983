"""Landmark distance between the face, and the mouth alone, and the reference, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.theval_landmarks import LIPS
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.reenactment.base_face_pair import FacePairMetric

_FACE_POINTS = np.arange(468)


@register_metric(rank=190)
class LMD(FacePairMetric):
    """Mean distance of landmarks in the image, with centers aligned, over the reference's eye distance.

    Chen et al. 2018, there in pixels and over the mouth. Frames count in which both faces are known.
    """

    name = "lmd"
    values = (
        MetricValue(
            "lmd", "eye distances", "lower", "Distance of face landmarks from the reference's, centers aligned."
        ),
        MetricValue("lmd_mouth", "eye distances", "lower", "The same over the lips, with the lips' centers aligned."),
    )

    def face_scores(
        self, video: EvaluationClip, reference: EvaluationClip, frames: NDArray[np.bool_]
    ) -> tuple[NDArray[np.floating], ...]:
        """Returns the distances over the whole face and over the lips."""
        generated, real = video.track.landmarks[frames], reference.track.landmarks[frames]
        eye_distance = reference.track.interocular[frames]
        return tuple(
            centered_distance(generated[:, points], real[:, points]) / eye_distance
            for points in (_FACE_POINTS, np.array(LIPS))
        )


def centered_distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns (T,) mean distances in the image plane between two sets of (T, N, 3) landmarks, centers aligned."""
    first, second = first[..., :2], second[..., :2]
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    return np.linalg.norm(first - second, axis=-1).mean(axis=1)

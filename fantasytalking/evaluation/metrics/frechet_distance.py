"""Frechet distance between two sets of features (Dowson and Landau 1982), and the base of FID and FVD."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, PairedMetric


class FrechetMetric(PairedMetric):
    """Base of metrics that compare the features of all videos with those of all references.

    `values` are the distance and the number of features on the smaller side.
    """

    distribution = True
    unbiased: ClassVar[bool]
    """Whether covariances are divided by N - 1 in place of N."""

    @abstractmethod
    def extract_features(self, clip: EvaluationClip) -> NDArray[np.float32]:
        """Returns (N, D) features of a clip; N may be 0."""

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the (N, D) features of both sides."""
        return {"video": self.extract_features(video), "reference": self.extract_features(reference)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns the distance between all features of all clips, and their number."""
        distance, count = (value.name for value in self.values)
        used = [record for record in measurements if len(record["video"]) and len(record["reference"])]
        if not used:
            return {distance: np.nan, count: 0.0, "n": 0.0}
        video, reference = (np.concatenate([record[side] for record in used]) for side in ("video", "reference"))
        return {
            distance: frechet_distance(video, reference, unbiased=self.unbiased),
            count: float(min(len(video), len(reference))),
            "n": float(len(used)),
        }


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating], *, unbiased: bool = True) -> float:
    """Returns |m1 - m2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2), in squared units of the features.

    The last trace is the sum of the square roots of the eigenvalues of C1 C2. With C1 = X'X and C2 = Y'Y these are the
    singular values of X Y': exact for any rank, without a matrix square root, and small for few samples.

    Args:
        first: (N, D) features.
        second: (M, D) features.
        unbiased: divide the covariances by N - 1, as pytorch-fid does, else by N, as StyleGAN-V does.

    Returns:
        the distance; NaN with fewer than two samples on a side.
    """
    assert first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1]
    if min(len(first), len(second)) < 2:
        return float("nan")
    first_mean, first_root = _mean_and_root(first, unbiased)
    second_mean, second_root = _mean_and_root(second, unbiased)
    overlap = np.linalg.svd(first_root @ second_root.T, compute_uv=False).sum()
    spread = np.square(first_root).sum() + np.square(second_root).sum()
    return float(np.square(first_mean - second_mean).sum() + spread - 2 * overlap)


def _mean_and_root(features: NDArray[np.floating], unbiased: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean (D,) and a matrix X with D columns and at most D rows such that X'X is the covariance."""
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    root = (values - mean) / np.sqrt(len(values) - (1 if unbiased else 0))
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root, mode="r")
    return mean, root

"""The Frechet distance of two sets of features, each taken as a Gaussian (Dowson and Landau 1982; FID and FVD)."""

import numpy as np
from numpy.typing import NDArray


def frechet_distance(first: NDArray[np.floating], second: NDArray[np.floating], *, unbiased: bool = True) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2), in squared units of the features.

    The last trace is the sum of the square roots of the eigenvalues of C1 C2. With C1 = X'X and C2 = Y'Y these are the
    singular values of X Y': exact for any rank, without a matrix root, and small for few samples.

    Args:
        one, other: (N, D) and (M, D) features.
        unbiased: divide the covariances by N - 1, as pytorch-fid does, else by N, as StyleGAN-V does.

    Returns:
        the distance; NaN with fewer than two samples on a side.
    """
    assert first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1]
    if min(len(first), len(second)) < 2:
        return float("nan")
    mean_one, root_one = _mean_and_root(first, unbiased)
    mean_other, root_other = _mean_and_root(second, unbiased)
    overlap = np.linalg.svd(root_one @ root_other.T, compute_uv=False).sum()
    spread = np.square(root_one).sum() + np.square(root_other).sum()
    return float(np.square(mean_one - mean_other).sum() + spread - 2 * overlap)


def _mean_and_root(features: NDArray[np.floating], unbiased: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (D,) and a matrix X of D columns, at most D rows, with X'X the covariance."""
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    root = (values - mean) / np.sqrt(len(values) - (1 if unbiased else 0))
    if len(root) > root.shape[1]:
        root = np.linalg.qr(root, mode="r")
    return mean, root

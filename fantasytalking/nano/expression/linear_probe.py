"""What can be read from features by a linear map: truths, which it should, and people, which it should not."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.features.expression_reader import LinearMap


def fit_ridge(features: NDArray[np.floating], targets: NDArray[np.floating], penalty: float) -> LinearMap:
    """Ridge regression of (N, K) targets on (N, F) features.

    Args:
        features: any scale; they are divided by their deviations within.
        targets: likewise.
        penalty: of the squared weights, relative to the number of samples.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    mean, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    scaled, offset = (x - mean) / spread, y.mean(axis=0)
    gram = scaled.T @ scaled + penalty * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, scaled.T @ (y - offset)) / spread[:, None]
    return LinearMap(mean, weights, offset)


def column_correlations(
    predictions: NDArray[np.floating], targets: NDArray[np.floating], names: tuple[str, ...]
) -> dict[str, float]:
    """Pearson's correlation of each column of two (N, K) tables, by name; NaN where one does not vary."""
    one, other = (table.astype(np.float64) - table.mean(axis=0) for table in (predictions, targets))
    sizes = np.sqrt(np.square(one).sum(axis=0) * np.square(other).sum(axis=0))
    alike = (one * other).sum(axis=0)
    return {
        name: float(product / size) if size > 0 else float("nan")
        for name, product, size in zip(names, alike, sizes, strict=True)
    }


def identity_accuracy(
    features: NDArray[np.floating], identities: NDArray[np.int64], pose_ids: NDArray[np.int64], penalty: float = 1e-3
) -> float:
    """How often a linear map names the person, in faces that it was not fitted to; chance is 1 over the people.

    It is fitted to one half of the poses and judged on the other.
    """
    numbers, person = np.unique(identities, return_inverse=True)
    known = pose_ids % 2 == 0
    probe = fit_ridge(features[known], np.eye(len(numbers))[person[known]], penalty)
    named = probe(features[~known]).argmax(axis=1)
    return float((named == person[~known]).mean())

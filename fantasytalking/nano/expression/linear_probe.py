"""Linear probes of features: regression of expression parameters and classification of identities."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.features.expression_reader import LinearMap


def fit_ridge(features: NDArray[np.floating], targets: NDArray[np.floating], penalty: float) -> LinearMap:
    """Fits a ridge regression of targets (N, K) on features (N, F).

    Args:
        features: of any scale; they are standardized internally.
        targets: of any scale.
        penalty: factor of the squared weights, relative to the number of samples.
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
    """Returns Pearson's correlation of each column of two tables (N, K), by name; NaN for constant columns."""
    first, second = (table.astype(np.float64) - table.mean(axis=0) for table in (predictions, targets))
    norms = np.sqrt(np.square(first).sum(axis=0) * np.square(second).sum(axis=0))
    products = (first * second).sum(axis=0)
    return {
        name: float(product / norm) if norm > 0 else float("nan")
        for name, product, norm in zip(names, products, norms, strict=True)
    }


def identity_accuracy(
    features: NDArray[np.floating], identities: NDArray[np.int64], pose_ids: NDArray[np.int64], penalty: float = 1e-3
) -> float:
    """Returns the accuracy of a linear probe for identity on expressions that it was not fitted to.

    The probe is fitted to one half of the expressions and evaluated on the other. Chance is 1 / number of people.
    """
    numbers, person = np.unique(identities, return_inverse=True)
    fitted = pose_ids % 2 == 0
    probe = fit_ridge(features[fitted], np.eye(len(numbers))[person[fitted]], penalty)
    predicted = probe(features[~fitted]).argmax(axis=1)
    return float((predicted == person[~fitted]).mean())

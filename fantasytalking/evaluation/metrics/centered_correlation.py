"""Correlations over many clips, each centred on its own mean: who somebody is does not count, what changes does."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CORRELATION_FRAMES = 10
"""A clip of which less is known on both sides does not enter."""
_EPSILON = 1e-12


def centered_sums(measured: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T,) m and k, each less its mean over the frames where both are known: (3,) sums of m k, m^2 and k^2."""
    both = np.isfinite(measured) & np.isfinite(reference)
    if not both.any():
        return np.zeros(3)
    m, k = (values[both].astype(np.float64) for values in (measured, reference))
    m, k = m - m.mean(), k - k.mean()
    return np.array([m @ k, m @ m, k @ k])


def centered_sums_or_nan(measured: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """As `centered_sums`; NaN where less than `MIN_CORRELATION_FRAMES` frames are known."""
    enough = int((np.isfinite(measured) & np.isfinite(reference)).sum()) >= MIN_CORRELATION_FRAMES
    return centered_sums(measured, reference) if enough else np.full(3, np.nan)


def pooled_correlation(sums: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(..., 3) sums of every clip to (...) correlations; NaN where a side never changes, or without clips."""
    total = np.sum(sums, axis=0) if len(sums) else np.zeros(3)
    strength = np.sqrt(total[..., 1] * total[..., 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(strength > _EPSILON, total[..., 0] / strength, np.nan)

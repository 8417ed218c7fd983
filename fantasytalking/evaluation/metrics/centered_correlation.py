"""Correlations over many clips, each centred on its own mean: who somebody is does not count, what changes does."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_FRAMES = 10
"""A clip of which less is known on both sides does not enter."""
_SMALLEST = 1e-12


def centred_sums(measured: NDArray[np.floating], true: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T,) m and k, each less its mean over the frames where both are known: (3,) sums of m k, m^2 and k^2."""
    both = np.isfinite(measured) & np.isfinite(true)
    if not both.any():
        return np.zeros(3)
    m, k = (values[both].astype(np.float64) for values in (measured, true))
    m, k = m - m.mean(), k - k.mean()
    return np.array([m @ k, m @ m, k @ k])


def known_sums(measured: NDArray[np.floating], true: NDArray[np.floating]) -> NDArray[np.float64]:
    """As `centred_sums`; NaN where less than `LEAST_FRAMES` frames are known."""
    enough = int((np.isfinite(measured) & np.isfinite(true)).sum()) >= LEAST_FRAMES
    return centred_sums(measured, true) if enough else np.full(3, np.nan)


def pooled_correlation(sums: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(..., 3) sums of every clip to (...) correlations; NaN where a side never changes, or without clips."""
    total = np.sum(sums, axis=0) if len(sums) else np.zeros(3)
    strength = np.sqrt(total[..., 1] * total[..., 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(strength > _SMALLEST, total[..., 0] / strength, np.nan)

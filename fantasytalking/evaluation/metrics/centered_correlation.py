"""Correlations pooled over clips, each centered on its own mean, so that only changes within a clip count."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CORRELATION_FRAMES = 10
"""Minimum number of frames known on both sides; clips with fewer are excluded."""
_EPSILON = 1e-12


def centered_sums(measured: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the (3,) sums of m k, m^2 and k^2 of (T,) m and k, each less its mean over the frames known in both."""
    both = np.isfinite(measured) & np.isfinite(reference)
    if not both.any():
        return np.zeros(3)
    m, k = (values[both].astype(np.float64) for values in (measured, reference))
    m, k = m - m.mean(), k - k.mean()
    return np.array([m @ k, m @ m, k @ k])


def centered_sums_or_nan(measured: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns `centered_sums`, or NaN if fewer than `MIN_CORRELATION_FRAMES` frames are known."""
    enough = int((np.isfinite(measured) & np.isfinite(reference)).sum()) >= MIN_CORRELATION_FRAMES
    return centered_sums(measured, reference) if enough else np.full(3, np.nan)


def pooled_correlation(sums: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns (...) correlations from the (..., 3) sums of each clip; NaN if a side is constant or there is no clip."""
    total = np.sum(sums, axis=0) if len(sums) else np.zeros(3)
    strength = np.sqrt(total[..., 1] * total[..., 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(strength > _EPSILON, total[..., 0] / strength, np.nan)

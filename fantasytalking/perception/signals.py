"""Smooths signals with uneven timestamps and gaps by windows in seconds, independent of the frame rate."""

import numpy as np

GRID_RATE = 25.0
"""Samples per second of smoothed signals."""


def smooth_to_grid(values: np.ndarray, times: np.ndarray, sigma: float) -> np.ndarray:
    """Returns the Gaussian mean over true timestamps on an even grid of `GRID_RATE` samples per second.

    Args:
        values: (T, ...) floats; a frame with any NaN counts as unknown.
        times: (T,) increasing seconds.
        sigma: standard deviation of the Gaussian window in seconds.

    Returns:
        (G, ...) float64, G = 1 + floor(duration * GRID_RATE); NaN where no known frame lies within 3 sigma.
    """
    assert len(values) == len(times) > 0
    grid = times[0] + np.arange(1 + int((times[-1] - times[0]) * GRID_RATE + 1e-6)) / GRID_RATE
    return smooth_at(values, times, grid, sigma)


def smooth_at(values: np.ndarray, times: np.ndarray, query_times: np.ndarray, sigma: float) -> np.ndarray:
    """Returns the mean of `smooth_to_grid` at any (G,) increasing times."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    known = np.isfinite(flat).all(axis=1)
    flat, times = flat[known], times[known]
    result = np.full((len(query_times), flat.shape[1]), np.nan)
    for begin in range(0, len(query_times), 256):
        part = query_times[begin : begin + 256]
        first, last = np.searchsorted(times, [part[0] - 3 * sigma, part[-1] + 3 * sigma])
        offset = part[:, None] - times[None, first:last]
        weights = np.where(np.abs(offset) <= 3 * sigma, np.exp(-0.5 * (offset / sigma) ** 2), 0.0)
        total = weights.sum(axis=1, keepdims=True)
        reached = total[:, 0] > 0
        result[begin : begin + 256][reached] = (weights[reached] / total[reached]) @ flat[first:last]
    return result.reshape(len(query_times), *values.shape[1:])


def loudness_envelope(
    audio: np.ndarray, sample_rate: int, times: np.ndarray, window_seconds: float = 0.1
) -> np.ndarray:
    """Returns the (T,) root mean square of (samples,) audio within `window_seconds` around each time; 0 outside it."""
    total = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    begin = np.clip(np.round((times - window_seconds / 2) * sample_rate), 0, len(audio)).astype(np.int64)
    end = np.clip(np.round((times + window_seconds / 2) * sample_rate), 0, len(audio)).astype(np.int64)
    return np.sqrt(np.maximum(total[end] - total[begin], 0) / np.maximum(end - begin, 1))

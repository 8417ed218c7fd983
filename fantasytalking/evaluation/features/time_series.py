"""Values over time, as a report draws them: one point for every full second of a clip."""

import numpy as np
from numpy.typing import NDArray


def mean_per_second(values: NDArray[np.floating], times: NDArray[np.floating], duration: float) -> NDArray[np.float64]:
    """Means of the known values within each full second.

    Args:
        values: (T,); NaN: not known.
        times: (T,) seconds from the clip's beginning.
        duration: seconds of the clip.

    Returns:
        (P,), P = whole seconds of the clip; NaN where nothing is known.
    """
    points = np.full(int(duration + 1e-6), np.nan)
    second = np.floor(times + 1e-6).astype(int)
    for place in range(len(points)):
        inside = values[(second == place) & np.isfinite(values)]
        if len(inside):
            points[place] = inside.mean()
    return points


def drift_per_second(values: NDArray[np.floating], times: NDArray[np.floating]) -> float:
    """Slope in units a second of the least-squares line through the known values; NaN for fewer than two times."""
    known = np.isfinite(values)
    if known.sum() < 2 or np.ptp(times[known]) == 0:
        return float("nan")
    return float(np.polyfit(times[known], values[known], 1)[0])

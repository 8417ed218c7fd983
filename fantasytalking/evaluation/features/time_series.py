"""Values over time: means per second for the report, and drift."""

import numpy as np
from numpy.typing import NDArray


def mean_per_second(values: NDArray[np.floating], times: NDArray[np.floating], duration: float) -> NDArray[np.float64]:
    """Returns the means of the known values within each full second.

    Args:
        values: (T,); NaN = not known.
        times: (T,) seconds from the start of the clip.
        duration: length of the clip in seconds.

    Returns:
        (P,), with P the whole seconds of the clip; NaN where no value is known.
    """
    points = np.full(int(duration + 1e-6), np.nan)
    second = np.floor(times + 1e-6).astype(int)
    for index in range(len(points)):
        inside = values[(second == index) & np.isfinite(values)]
        if len(inside):
            points[index] = inside.mean()
    return points


def drift_per_second(values: NDArray[np.floating], times: NDArray[np.floating]) -> float:
    """Returns the slope per second of the least-squares line through the known values; NaN for fewer than two times."""
    known = np.isfinite(values)
    if known.sum() < 2 or np.ptp(times[known]) == 0:
        return float("nan")
    return float(np.polyfit(times[known], values[known], 1)[0])

"""Whether the mouth goes with the loudness of its own sound more than with that sound shifted away."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.errors import InputError
from fantasytalking.evaluation.clip import SAMPLE_RATE, Clip
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips
from fantasytalking.perception.facial_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness, smooth_to_grid

SIGMA = 0.05
"""Seconds of the window that smoothes the mouth."""
LAG = 5
"""Samples at 25 a second by which both may be apart: 0.2 s."""
SHUFFLES = 8
LEAST_SECONDS = 3.0


class EnvelopeGain(Metric):
    """Correlation of mouth opening and loudness at the best lag up to 0.2 s, less the same with the sound rolled round
    by a second or more, averaged over eight rolls. On real speech this is weakly positive and means something over a
    data set only; it is no accuracy of lip sync."""

    name = "envelope"
    values = (
        Value("envelope_gain", "", "higher", "Correlation of mouth and loudness, with own less with shifted sound."),
    )
    paired = False
    hears = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The gain; NaN below 3 s, without sound, or with the face known for less than half of the time."""
        return {"envelope_gain": np.array(_gain(video))}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("envelope_gain",))


def _gain(video: Clip) -> float:
    try:
        sound = video.sound
    except InputError:
        return float("nan")
    opening = smooth_to_grid(mouth_opening(video.track.landmarks), video.times, SIGMA)
    times = np.arange(len(opening)) / GRID_RATE
    known = np.isfinite(opening)
    loud = loudness(sound, SAMPLE_RATE, times)
    if len(opening) < LEAST_SECONDS * GRID_RATE or known.mean() < 0.5 or loud.std() < 1e-6:
        return float("nan")
    if opening[known].std() < 1e-6:
        return 0.0  # a mouth that never moves goes with no sound
    rolls = np.linspace(GRID_RATE, len(loud) - GRID_RATE, SHUFFLES).round().astype(int)
    shuffled = np.mean([best_correlation(opening, np.roll(loud, roll)) for roll in rolls])
    return best_correlation(opening, loud) - float(shuffled)


def best_correlation(opening: NDArray[np.floating], loud: NDArray[np.floating]) -> float:
    """The largest Pearson correlation of (G,) mouth, NaN where not known, and (G,) loudness over lags up to `LAG`."""
    best = -1.0
    for lag in range(-LAG, LAG + 1):
        mouth = opening[max(0, lag) : len(opening) + min(0, lag)]
        sound = loud[max(0, -lag) : len(loud) - max(0, lag)]
        known = np.isfinite(mouth)
        if known.sum() > 2 and mouth[known].std() > 0 and sound[known].std() > 0:
            best = max(best, float(np.corrcoef(mouth[known], sound[known])[0, 1]))
    return best

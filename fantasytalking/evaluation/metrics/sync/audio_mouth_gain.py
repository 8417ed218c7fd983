"""Whether the mouth goes with the loudness of its own sound more than with that sound shifted away."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness_envelope, smooth_to_grid

MOUTH_SMOOTHING_SECONDS = 0.05
"""Seconds of the window that smoothes the mouth."""
MAX_SYNC_LAG = 2
"""Samples at 25 a second by which mouth and sound may be apart: 0.08 s, about what viewers do not notice
(ITU-R BT.1359)."""
MAX_SEARCH_LAG = 12
"""Samples by which they are moved to find where they agree best: 0.48 s."""
NUM_SHIFTED_CONTROLS = 8
MIN_GAIN_SECONDS = 3.0


class AudioMouthGain(Metric):
    """Correlation of mouth opening and loudness at the best lag up to 0.08 s, less the same with the sound rolled round
    by a second or more, averaged over eight rolls. On real speech this is weakly positive and means something over a
    data set only; it is no accuracy of lip sync."""

    name = "envelope"
    values = (
        MetricValue(
            "envelope_gain", "", "higher", "Correlation of mouth and loudness, with own less with shifted sound."
        ),
        MetricValue(
            "envelope_lag", "s", "reference", "Median lag of the best correlation; positive: the mouth is late."
        ),
    )
    paired = False
    uses_audio = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Both; NaN below 3 s, without sound, with the face known for less than half of the time, or for a mouth that
        never moves."""
        gain, lag = _gain_and_lag(video)
        return {"envelope_gain": np.array(gain), "envelope_lag": np.array(lag)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean gain and the median lag over clips."""
        lags = np.array([float(record["envelope_lag"]) for record in measurements])
        known = lags[np.isfinite(lags)]
        middle = float(np.median(known)) if len(known) else np.nan
        return mean_over_clips(measurements, ("envelope_gain", "envelope_lag")) | {"envelope_lag": middle}


def _gain_and_lag(video: EvaluationClip) -> tuple[float, float]:
    try:
        sound = video.audio
    except InputError:
        return np.nan, np.nan
    opening = smooth_to_grid(mouth_opening(video.track.landmarks), video.times, MOUTH_SMOOTHING_SECONDS)
    known = np.isfinite(opening)
    loud = loudness_envelope(sound, CLIP_SAMPLE_RATE, np.arange(len(opening)) / GRID_RATE)
    if len(opening) < MIN_GAIN_SECONDS * GRID_RATE or known.mean() < 0.5:
        return np.nan, np.nan
    if loud.std() < 1e-6 or opening[known].std() < 1e-3:
        return np.nan, np.nan
    rolls = np.linspace(GRID_RATE, len(loud) - GRID_RATE, NUM_SHIFTED_CONTROLS).round().astype(int)
    shuffled = [lag_correlations(opening, np.roll(loud, roll), MAX_SYNC_LAG).max() for roll in rolls]
    gain = lag_correlations(opening, loud, MAX_SYNC_LAG).max() - np.mean(shuffled)
    return float(gain), float(lag_correlations(opening, loud, MAX_SEARCH_LAG).argmax() - MAX_SEARCH_LAG) / GRID_RATE


def lag_correlations(
    opening: NDArray[np.floating], loudness: NDArray[np.floating], max_lag: int
) -> NDArray[np.float64]:
    """(2 most + 1,) Pearson correlations of (G,) mouth, NaN where not known, with (G,) loudness; positive lags: the
    mouth is late. -1 where one of them does not change."""
    found = np.full(2 * max_lag + 1, -1.0)
    for place, lag in enumerate(range(-max_lag, max_lag + 1)):
        mouth = opening[max(0, lag) : len(opening) + min(0, lag)]
        sound = loudness[max(0, -lag) : len(loudness) - max(0, lag)]
        known = np.isfinite(mouth)
        if known.sum() > 2 and mouth[known].std() > 0 and sound[known].std() > 0:
            found[place] = np.corrcoef(mouth[known], sound[known])[0, 1]
    return found

"""Correlation of the mouth with the loudness of its own audio, compared with shifted audio."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness_envelope, smooth_to_grid

MOUTH_SMOOTHING_SECONDS = 0.05
"""Length in seconds of the window that smooths the mouth opening."""
MAX_SYNC_LAG = 2
"""Largest lag between mouth and audio in samples at 25 per second: 0.08 s, about the limit of what viewers notice
(ITU-R BT.1359)."""
MAX_SEARCH_LAG = 12
"""Largest lag in samples of the search for the best correlation: 0.48 s."""
NUM_SHIFTED_CONTROLS = 8
MIN_GAIN_SECONDS = 3.0


@register_metric(rank=260)
class AudioMouthGain(MeanMetric):
    """Correlation of mouth opening and loudness at the best lag up to 0.08 s, minus that with shifted audio.

    The second term is the mean over eight circular shifts of the audio by at least a second. On real speech the gain is
    weakly positive and meaningful over a dataset only; it does not measure the accuracy of lip sync.
    """

    name = "envelope"
    values = (
        MetricValue("envelope_gain", "", "higher", "Correlation of mouth and loudness: own audio minus shifted audio."),
        MetricValue(
            "envelope_lag", "s", "reference", "Median lag of the best correlation; positive: the mouth is late."
        ),
    )
    paired = False
    uses_audio = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns gain and lag.

        NaN below 3 s, without audio, with the face known for less than half of the time, or if the mouth never moves.
        """
        gain, lag = _gain_and_lag(video)
        return {"envelope_gain": np.array(gain), "envelope_lag": np.array(lag)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns the mean gain and the median lag over clips."""
        lags = np.array([float(record["envelope_lag"]) for record in measurements])
        known = lags[np.isfinite(lags)]
        median = float(np.median(known)) if len(known) else np.nan
        return super().summarize(measurements) | {"envelope_lag": median}


def _gain_and_lag(video: EvaluationClip) -> tuple[float, float]:
    try:
        audio = video.audio
    except InputError:
        return np.nan, np.nan
    opening = smooth_to_grid(mouth_opening(video.track.landmarks), video.times, MOUTH_SMOOTHING_SECONDS)
    known = np.isfinite(opening)
    loudness = loudness_envelope(audio, CLIP_SAMPLE_RATE, np.arange(len(opening)) / GRID_RATE)
    if len(opening) < MIN_GAIN_SECONDS * GRID_RATE or known.mean() < 0.5:
        return np.nan, np.nan
    if loudness.std() < 1e-6 or opening[known].std() < 1e-3:
        return np.nan, np.nan
    rolls = np.linspace(GRID_RATE, len(loudness) - GRID_RATE, NUM_SHIFTED_CONTROLS).round().astype(int)
    shifted = [lag_correlations(opening, np.roll(loudness, roll), MAX_SYNC_LAG).max() for roll in rolls]
    gain = lag_correlations(opening, loudness, MAX_SYNC_LAG).max() - np.mean(shifted)
    return float(gain), float(lag_correlations(opening, loudness, MAX_SEARCH_LAG).argmax() - MAX_SEARCH_LAG) / GRID_RATE


def lag_correlations(
    opening: NDArray[np.floating], loudness: NDArray[np.floating], max_lag: int
) -> NDArray[np.float64]:
    """Returns Pearson correlations of (G,) mouth openings, NaN = not known, with (G,) loudness at each lag.

    Args:
        max_lag: largest lag in samples.

    Returns:
        (2 max_lag + 1,); at positive lags the mouth is late. -1 where one of the two is constant.
    """
    found = np.full(2 * max_lag + 1, -1.0)
    for index, lag in enumerate(range(-max_lag, max_lag + 1)):
        mouth = opening[max(0, lag) : len(opening) + min(0, lag)]
        volume = loudness[max(0, -lag) : len(loudness) - max(0, lag)]
        known = np.isfinite(mouth)
        if known.sum() > 2 and mouth[known].std() > 0 and volume[known].std() > 0:
            found[index] = np.corrcoef(mouth[known], volume[known])[0, 1]
    return found

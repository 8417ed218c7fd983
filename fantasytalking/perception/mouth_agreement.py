"""Measures how well a mouth and a sound agree, and by how much the sound is late, without weights.

The opening of the mouth is compared with the level of the sound from 500 to 3000 Hz, where vowels are loud, and the
speed of the opening with the speed of that level. This is strong evidence for synthetic faces and weak evidence for
real ones: see docs/data.md for what it separates.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, smooth_at, smooth_to_grid

IN_SYNC_SECONDS = 0.12
"""Largest lag at which mouth and sound count as simultaneous."""
MAX_SOUND_LAG_SECONDS = 0.8
"""Largest lag that is searched."""
MIN_AGREEMENT_SECONDS = 2.0
"""Shortest clip that is measured."""
MIN_LAG_AGREEMENT, MIN_LAG_LEAD = 0.48, 0.07
"""A lag is certain from this agreement on, if it leads that of simultaneous mouth and sound by so much."""

_RATE = 100
"""Samples per second of the level."""
_LOWEST_HZ, _HIGHEST_HZ = 500.0, 3000.0
_WINDOW_SECONDS, _SIGMA, _SPEED_SIGMA = 0.032, 0.05, 0.08
_DEPTH_DB = 30.0
_OPENING_WEIGHT = 2 / 3
_LAG_STEP = 4
_MIN_DEVIATION = 1e-6


class MouthAgreement(NamedTuple):
    """Agreement of one mouth with a sound."""

    agreement: float
    """Best agreement at lags up to `IN_SYNC_SECONDS`, [-1, 1]; NaN where it cannot be measured."""
    lag: float
    """Seconds by which the sound is late (negative: early) at the best agreement of all; NaN where none is certain and
    mouth and sound do not agree as they are."""


def measure_agreement(track: FaceTrack, samples: NDArray[np.float32], sample_rate: int) -> MouthAgreement:
    """Compares the mouth of a track with sound that starts at time 0 of it.

    Args:
        track: a face.
        samples: (S,) mono in [-1, 1].
        sample_rate: Hz.
    """
    opening = smooth_to_grid(mouth_opening(track.landmarks), track.times, _SIGMA)
    if min(len(opening) / GRID_RATE, len(samples) / sample_rate) < MIN_AGREEMENT_SECONDS:
        return MouthAgreement(np.nan, np.nan)
    level = _level(samples, sample_rate)
    speed = _smooth(np.abs(np.gradient(level)), _SPEED_SIGMA)
    lags = np.arange(-round(MAX_SOUND_LAG_SECONDS * _RATE), round(MAX_SOUND_LAG_SECONDS * _RATE) + 1, _LAG_STEP)
    by_opening = _lag_correlations(opening, level, lags)
    by_speed = _lag_correlations(np.abs(np.gradient(opening)), speed, lags)
    agreements = _OPENING_WEIGHT * by_opening + (1 - _OPENING_WEIGHT) * by_speed
    if not np.isfinite(agreements).any():
        return MouthAgreement(np.nan, np.nan)
    simultaneous = np.abs(lags) <= IN_SYNC_SECONDS * _RATE
    agreement, best = float(np.nanmax(agreements[simultaneous])), int(np.nanargmax(agreements))
    certain = agreements[best] >= MIN_LAG_AGREEMENT and (
        simultaneous[best] or agreements[best] - agreement >= MIN_LAG_LEAD
    )
    return MouthAgreement(agreement, float(lags[best]) / _RATE if certain else np.nan)


def _level(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """Returns the level in dB, 100 per second, not below 30 dB under the loudest twentieth."""
    length = round(_WINDOW_SECONDS * sample_rate)
    padded = np.pad(samples.astype(np.float64), length // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[:: sample_rate // _RATE]
    powers = np.square(np.abs(np.fft.rfft(windows * np.hanning(length), axis=1)))
    bins = np.fft.rfftfreq(length, 1 / sample_rate)
    level = 10 * np.log10(powers[:, (bins >= _LOWEST_HZ) & (bins < _HIGHEST_HZ)].sum(axis=1) + 1e-9)
    return _smooth(np.maximum(level, np.percentile(level, 95) - _DEPTH_DB), _SIGMA)


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    times = np.arange(len(values)) / _RATE
    smoothed: NDArray[np.float64] = smooth_at(values, times, times, sigma)
    return smoothed


def _lag_correlations(
    mouth: NDArray[np.float64], sound: NDArray[np.float64], lags: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the correlation of the mouth at each time with the sound each lag later; NaN where one is constant."""
    moments = np.round(np.arange(len(mouth)) * (_RATE / GRID_RATE)).astype(np.int64)
    found = np.full(len(lags), np.nan)
    for index, lag in enumerate(lags):
        shifted = moments + lag
        used = (shifted >= 0) & (shifted < len(sound)) & np.isfinite(mouth)
        one, other = mouth[used], sound[shifted[used]]
        if len(one) > GRID_RATE and one.std() > _MIN_DEVIATION and other.std() > _MIN_DEVIATION:
            found[index] = np.corrcoef(one, other)[0, 1]
    return found

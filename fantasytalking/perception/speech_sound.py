"""Measures whether a sound is speech with silence behind it: no tone, noise or music, alone or under the speech.

Two classic cues (Scheirer and Slaney, "Construction and evaluation of a robust multifeature speech/music
discriminator", 1997): the spectrum of speech changes from syllable to syllable, and its level falls between them.
"""

import numpy as np
from numpy.typing import NDArray

MIN_SPEECH_SECONDS = 2.0
"""Shortest sound that is measured: shorter ones may lie within one word."""

_LEVEL_SECONDS, _HOP_SECONDS = 0.025, 0.01
_LOUD_PERCENTILE, _QUIET_PERCENTILE = 95, 10
_MAX_DEPTH_DB = 50.0
_SPECTRUM_SECONDS, _SPECTRUM_HOP_SECONDS, _SPECTRUM_LAG = 0.128, 0.032, 4
_LOWEST_HZ, _HIGHEST_HZ = 94.0, 4000.0
_MIN_RELATIVE_POWER = 1e-3


def speech_depth_db(samples: NDArray[np.float32], sample_rate: int) -> float:
    """Returns by how many dB the quietest tenth of (S,) samples lies below the loudest twentieth, at most 50.

    Clean speech has 20 dB or more. Music, noise and crowds fill its pauses. NaN below `MIN_SPEECH_SECONDS` and for
    silence.
    """
    if len(samples) < MIN_SPEECH_SECONDS * sample_rate or not samples.any():
        return float("nan")
    powers = np.square(_windows(samples, sample_rate, _LEVEL_SECONDS, _HOP_SECONDS)).mean(axis=1)
    levels = 10 * np.log10(powers + 1e-12)
    loud, quiet = np.percentile(levels, [_LOUD_PERCENTILE, _QUIET_PERCENTILE])
    return float(min(loud - quiet, _MAX_DEPTH_DB))


def sound_steadiness(samples: NDArray[np.float32], sample_rate: int) -> float:
    """Returns how alike the magnitude spectra of (S,) samples are 0.128 s apart, in [0, 1].

    It is the median cosine similarity over pairs that are not silent. Speech has 0.35 to 0.7, noise 0.8, music and
    tones 0.9 and more. NaN below `MIN_SPEECH_SECONDS` and for silence.
    """
    if len(samples) < MIN_SPEECH_SECONDS * sample_rate or not samples.any():
        return float("nan")
    windows = _windows(samples, sample_rate, _SPECTRUM_SECONDS, _SPECTRUM_HOP_SECONDS)
    spectra = np.abs(np.fft.rfft(windows * np.hanning(windows.shape[1]), axis=1))
    bins = np.fft.rfftfreq(windows.shape[1], 1 / sample_rate)
    spectra = spectra[:, (bins >= _LOWEST_HZ) & (bins < _HIGHEST_HZ)]
    norms = np.linalg.norm(spectra, axis=1)
    loud = np.square(norms) > _MIN_RELATIVE_POWER * np.percentile(np.square(norms), _LOUD_PERCENTILE)
    pairs = loud[_SPECTRUM_LAG:] & loud[:-_SPECTRUM_LAG]
    if not pairs.any():
        return float("nan")
    unit = spectra / np.maximum(norms, 1e-12)[:, None]
    return float(np.median((unit[_SPECTRUM_LAG:] * unit[:-_SPECTRUM_LAG]).sum(axis=1)[pairs]))


def _windows(samples: NDArray[np.float32], sample_rate: int, seconds: float, hop: float) -> NDArray[np.float64]:
    length, step = round(seconds * sample_rate), round(hop * sample_rate)
    return np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[::step]

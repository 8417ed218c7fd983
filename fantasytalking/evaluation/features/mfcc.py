"""Mel-frequency cepstra as python_speech_features computes them by default, which SyncNet was trained on.

Its conventions (github.com/jameslyons/python_speech_features, 0.6): preemphasis .97, windows of 25 ms every 10 ms
without tapering, the last one filled up with zeros, power spectrum of 512 points, 26 triangles on the mel scale from 0
to half the rate with corners on whole bins, orthonormal DCT-II, lifter 22, and the logarithm of the window's energy as
coefficient 0.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

RATE = 16000
COEFFICIENTS = 13
_WINDOW, _STEP, _POINTS, _FILTERS, _LIFTER = 400, 160, 512, 26, 22


def mfcc(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """(S,) int16 samples at 16 kHz to (1 + ceil((S - 400) / 160), 13) cepstra, 100 a second."""
    assert samples.ndim == 1 and samples.dtype == np.int16 and len(samples) > _WINDOW
    signal = samples.astype(np.float64)
    signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    count = 1 + -(-(len(signal) - _WINDOW) // _STEP)
    signal = np.pad(signal, (0, max(0, (count - 1) * _STEP + _WINDOW - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[::_STEP][:count]
    power = np.square(np.abs(np.fft.rfft(windows, _POINTS))) / _POINTS
    energy, bands = power.sum(axis=1), power @ _triangles().T
    cepstra = dct(np.log(_positive(bands)), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    cepstra *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / _LIFTER)
    cepstra[:, 0] = np.log(_positive(energy))
    return cepstra


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values == 0, np.finfo(float).eps, values)


def _triangles() -> NDArray[np.float64]:
    """(26, 257) weights of the bins in each mel band."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), _FILTERS + 2)
    corners = np.floor((_POINTS + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(_POINTS // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rising, 0) + np.where((bins >= middle) & (bins < high), falling, 0)

"""Mel-frequency cepstral coefficients as in python_speech_features, which SyncNet was trained on.

Conventions (github.com/jameslyons/python_speech_features, 0.6): preemphasis 0.97, windows of 25 ms every 10 ms without
tapering, the last one padded with zeros, power spectrum of 512 points, 26 triangles on the mel scale from 0
to half the rate with corners on whole bins, orthonormal DCT-II, lifter 22, and the logarithm of the window's energy as
coefficient 0.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

MFCC_SAMPLE_RATE = 16000
NUM_COEFFICIENTS = 13
_WINDOW_SAMPLES, _HOP_SAMPLES, _FFT_SIZE, _NUM_FILTERS, _LIFTER = 400, 160, 512, 26, 22


def mfcc(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Returns (1 + ceil((S - 400) / 160), 13) coefficients, 100 per second, of (S,) int16 samples at 16 kHz."""
    assert samples.ndim == 1 and samples.dtype == np.int16 and len(samples) > _WINDOW_SAMPLES
    signal = samples.astype(np.float64)
    signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    count = 1 + -(-(len(signal) - _WINDOW_SAMPLES) // _HOP_SAMPLES)
    signal = np.pad(signal, (0, max(0, (count - 1) * _HOP_SAMPLES + _WINDOW_SAMPLES - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW_SAMPLES)[::_HOP_SAMPLES][:count]
    power = np.square(np.abs(np.fft.rfft(windows, _FFT_SIZE))) / _FFT_SIZE
    energy, bands = power.sum(axis=1), power @ _mel_filterbank().T
    cepstra = dct(np.log(_floor_zeros(bands)), type=2, axis=1, norm="ortho")[:, :NUM_COEFFICIENTS]
    cepstra *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / _LIFTER)
    cepstra[:, 0] = np.log(_floor_zeros(energy))
    return cepstra


def _floor_zeros(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values == 0, np.finfo(float).eps, values)


def _mel_filterbank() -> NDArray[np.float64]:
    """Returns the (26, 257) weights of the bins in each mel band."""
    mels = np.linspace(0, 2595 * np.log10(1 + MFCC_SAMPLE_RATE / 2 / 700), _NUM_FILTERS + 2)
    corners = np.floor((_FFT_SIZE + 1) * 700 * (10 ** (mels / 2595) - 1) / MFCC_SAMPLE_RATE)
    bins = np.arange(_FFT_SIZE // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rising, 0) + np.where((bins >= middle) & (bins < high), falling, 0)

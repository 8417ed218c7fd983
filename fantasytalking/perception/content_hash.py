"""Hashes of what is seen and heard, which re-encoding and resizing barely change.

Images: the signs of the lowest frequencies around their median (pHash, Zauner 2010). Audio: the signs of the change
over time of the differences between neighboring bands (Haitsma and Kalker, "A highly robust audio fingerprinting
system", 2002).
"""

from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

CHUNK_DIGITS = 4
"""Hexadecimal digits of a chunk: two similar hashes have one in common."""

_IMAGE_SIZE, _LOW_FREQUENCIES = 32, 8
_BANDS, _LOWEST_HZ, _HIGHEST_HZ = 9, 300.0, 3000.0
_WINDOW_SECONDS, _HOP_SECONDS = 0.4, 0.1


def image_hash(frames: Iterable[NDArray[np.uint8]]) -> str:
    """Returns 16 hexadecimal digits for each of the (H, W, 3) uint8 RGB frames."""
    bits = []
    for frame in frames:
        gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
        small = cv2.resize(gray, (_IMAGE_SIZE, _IMAGE_SIZE), interpolation=cv2.INTER_AREA)
        low = dctn(small.astype(np.float64), norm="ortho")[:_LOW_FREQUENCIES, :_LOW_FREQUENCIES].ravel()
        bits.append(low > np.median(low[1:]))
    return _hexadecimal(np.concatenate(bits))


def sound_hash(samples: NDArray[np.float32], sample_rate: int) -> str:
    """Returns two hexadecimal digits for every tenth of a second of (S,) samples, without the last 0.5 s."""
    length, hop = round(_WINDOW_SECONDS * sample_rate), round(_HOP_SECONDS * sample_rate)
    if len(samples) < length + hop:
        return ""
    windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[::hop]
    powers = np.square(np.abs(np.fft.rfft(windows * np.hanning(length), axis=1)))
    bins = np.fft.rfftfreq(length, 1 / sample_rate)
    corners = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 1)
    inside = [(bins >= low) & (bins < high) for low, high in pairwise(corners.tolist())]
    levels = np.log(np.stack([powers[:, band].sum(axis=1) for band in inside], axis=1) + 1e-9)
    return _hexadecimal((np.diff(np.diff(levels, axis=1), axis=0) > 0).ravel())


def hash_distance(one: str, other: str) -> float:
    """Returns the fraction of differing bits, [0, 1]; 1 for hashes of different lengths and for empty ones."""
    if not one or len(one) != len(other):
        return 1.0
    return (int(one, 16) ^ int(other, 16)).bit_count() / (4 * len(one))


def hash_chunks(text: str) -> list[tuple[int, str]]:
    """Returns the chunks of a hash with their places, by which similar hashes are found."""
    return [(place, text[place : place + CHUNK_DIGITS]) for place in range(0, len(text), CHUNK_DIGITS)]


def _hexadecimal(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()

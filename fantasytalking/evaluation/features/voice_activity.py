"""Where somebody speaks, told by loudness alone, so that no weights are needed."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import SAMPLE_RATE, Clip
from fantasytalking.perception.signals import loudness

WINDOW_SECONDS = 0.05
LEVEL_BELOW = 28.0
"""Decibels below the loudest twentieth from which on sound counts as speech."""
LEAST_PAUSE = 0.12
"""Seconds; shorter pauses belong to the speech, as the closures of p, t and k do."""
_ABSOLUTE = 1e-4
"""Root mean square below which a clip is silent altogether: -80 dB of full scale."""


def volume(clip: Clip) -> NDArray[np.float64] | None:
    """(T,) root mean square of the sound within 50 ms around every frame; None without sound."""
    try:
        sound = clip.sound
    except InputError:
        return None
    return loudness(sound, SAMPLE_RATE, clip.times, WINDOW_SECONDS)


def speech_frames(loud: NDArray[np.float64], fps: float) -> NDArray[np.bool_]:
    """(T,) volume to (T,) bool: in speech or in a pause shorter than `LEAST_PAUSE`."""
    speech = loud > max(_ABSOLUTE, float(np.percentile(loud, 95)) * 10 ** (-LEVEL_BELOW / 20))
    for first, last in runs(~speech):
        if first > 0 and last < len(loud) and (last - first) / fps < LEAST_PAUSE:
            speech[first:last] = True
    return speech


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches [first, last) of a (T,) mask that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

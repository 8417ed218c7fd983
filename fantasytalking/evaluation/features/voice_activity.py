"""Where somebody speaks, told by loudness alone, so that no weights are needed."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.perception.signals import loudness_envelope

VOLUME_WINDOW_SECONDS = 0.05
SPEECH_THRESHOLD_DB = 28.0
"""Decibels below the loudest twentieth from which on sound counts as speech."""
MIN_PAUSE_SECONDS = 0.12
"""Seconds; shorter pauses belong to the speech, as the closures of p, t and k do."""
_SILENCE_RMS = 1e-4
"""Root mean square below which a clip is silent altogether: -80 dB of full scale."""


def frame_volume(clip: EvaluationClip) -> NDArray[np.float64] | None:
    """(T,) root mean square of the sound within 50 ms around every frame; None without sound."""
    try:
        sound = clip.audio
    except InputError:
        return None
    return loudness_envelope(sound, CLIP_SAMPLE_RATE, clip.times, VOLUME_WINDOW_SECONDS)


def speech_frames(volume: NDArray[np.float64], fps: float) -> NDArray[np.bool_]:
    """(T,) volume to (T,) bool: in speech or in a pause shorter than `MIN_PAUSE_SECONDS`."""
    speech = volume > max(_SILENCE_RMS, float(np.percentile(volume, 95)) * 10 ** (-SPEECH_THRESHOLD_DB / 20))
    for first, last in true_runs(~speech):
        if first > 0 and last < len(volume) and (last - first) / fps < MIN_PAUSE_SECONDS:
            speech[first:last] = True
    return speech


def true_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches [first, last) of a (T,) mask that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

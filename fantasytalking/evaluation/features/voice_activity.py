"""Voice activity detection by loudness, without weights."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.perception.signals import loudness_envelope

VOLUME_WINDOW_SECONDS = 0.05
SPEECH_THRESHOLD_DB = 28.0
"""Threshold of speech in decibels below the 95th percentile of the volume."""
MIN_PAUSE_SECONDS = 0.12
"""Shortest pause in seconds; shorter ones count as speech, such as the closures of p, t and k."""
_SILENCE_RMS = 1e-4
"""Root mean square below which audio is silent: -80 dB of full scale."""


def frame_volume(clip: EvaluationClip) -> NDArray[np.float64] | None:
    """Returns the (T,) root mean square of the audio within 50 ms around each frame; None without audio."""
    try:
        audio = clip.audio
    except InputError:
        return None
    return loudness_envelope(audio, CLIP_SAMPLE_RATE, clip.times, VOLUME_WINDOW_SECONDS)


def speech_frames(volume: NDArray[np.float64], fps: float) -> NDArray[np.bool_]:
    """Returns (T,) whether a frame is in speech or in a pause shorter than `MIN_PAUSE_SECONDS`, from (T,) volume."""
    speech = volume > max(_SILENCE_RMS, float(np.percentile(volume, 95)) * 10 ** (-SPEECH_THRESHOLD_DB / 20))
    for first, last in true_runs(~speech):
        if first > 0 and last < len(volume) and (last - first) / fps < MIN_PAUSE_SECONDS:
            speech[first:last] = True
    return speech


def true_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns the ranges [first, last) in which a (T,) mask is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

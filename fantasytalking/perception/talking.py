"""Which of several people in a video is the one that talks."""

from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.facial_measures import mouth_opening


class TalkingChoice(NamedTuple):
    """Who of several people talks."""

    track: int | None
    """Number of the track, None when it cannot be told."""
    reason: str
    """Why this one, or why none, in one line."""
    movement: tuple[float, ...]
    """Per track: mean speed of the mouth opening, interocular distances per second."""
    agreement: tuple[float, ...]
    """Per track: correlation of mouth opening and loudness, in [-1, 1]; 0 without sound."""


def choose_talking(
    tracks: list[FaceTrack], audio: np.ndarray | None = None, *, sample_rate: int = 16000
) -> TalkingChoice:
    """Chooses the talking person."""
    movement = tuple(_movement(t) for t in tracks)
    agreement = tuple(_agreement(t, audio, sample_rate) if audio is not None else 0.0 for t in tracks)
    return TalkingChoice(0 if len(tracks) == 1 else None, "", movement, agreement)


def _smoothed(values: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """Gaussian mean over time stamps, of known values only; NaN where none is near."""
    known = np.isfinite(values)
    weights = np.exp(-0.5 * ((times[:, None] - times[None, known]) / seconds) ** 2)
    total = weights.sum(axis=1)
    return np.where(known, weights @ values[known] / np.maximum(total, 1e-12), np.nan)


def _movement(track: FaceTrack) -> float:
    opening = _smoothed(mouth_opening(track.landmarks), track.times, 0.04)
    speed = np.abs(np.diff(opening)) / np.diff(track.times)
    return float(np.nanmean(speed)) if np.isfinite(speed).any() else 0.0


def _agreement(track: FaceTrack, audio: np.ndarray, sample_rate: int) -> float:
    opening = _smoothed(mouth_opening(track.landmarks), track.times, 0.06)
    best = -1.0
    for lag in np.arange(-0.2, 0.21, 0.04):
        c = ((track.times + lag) * sample_rate).astype(int)
        h = int(0.06 * sample_rate)
        env = np.array(
            [
                np.sqrt(np.mean(audio[max(0, x - h) : x + h] ** 2))
                if max(0, x - h) < min(len(audio), x + h) and x + h > 0
                else np.nan
                for x in c
            ]
        )
        ok = np.isfinite(env) & np.isfinite(opening)
        if ok.sum() > 10:
            best = max(best, np.corrcoef(env[ok], opening[ok])[0, 1])
    return best

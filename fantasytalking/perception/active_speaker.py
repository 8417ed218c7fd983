"""Detects which of several people in a video is the active speaker."""

from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness_envelope, smooth_to_grid

MIN_MOUTH_SPEED = 0.12
"""Minimum mean speed of the mouth opening of a speaker, in interocular distances per second. In real footage listeners
show about 0.07, speakers 0.28 to 0.76."""

MIN_MOUTH_SPEED_RATIO = 2.0
"""Minimum ratio of the fastest mouth's speed to that of the second fastest."""

MIN_SYNC_CORRELATION = 0.35
"""Minimum correlation with the audio for the audio to decide."""

MIN_SYNC_CORRELATION_MARGIN = 0.25
"""Minimum lead over the second correlation: matching pairs of real speech often correlate no better than others."""

# People visible in fewer frames, or smaller in relation to the largest face, are passers-by.
_MIN_VISIBLE_FRACTION, _MIN_RELATIVE_SIZE = 0.3, 0.35
_MOUTH_SIGMA = 0.05
_LAGS = np.arange(-0.2, 0.21, 0.04)


class ActiveSpeaker(NamedTuple):
    """The active speaker among several tracks."""

    track_index: int | None
    """Index of the track; None if it cannot be determined."""
    reason: str
    """Reason for the choice, or for None, in one line."""
    mouth_speeds: tuple[float, ...]
    """Mean speed of the mouth opening per track, in interocular distances per second."""
    sync_correlations: tuple[float, ...]
    """Correlation of mouth opening and loudness per track, in [-1, 1], at the best lag up to 0.2 s; 0 without audio."""


def detect_active_speaker(
    tracks: list[FaceTrack], audio: np.ndarray | None = None, *, sample_rate: int = 16000
) -> ActiveSpeaker:
    """Selects the speaker by mouth movement, and by its correlation with the audio if that is clear.

    A single person among passers-by is always selected. Among several people, the one whose mouth moves
    `MIN_MOUTH_SPEED_RATIO` times as much as any other is selected, unless the audio clearly matches another person. If
    no mouth leads, the audio decides if it clearly matches one person. Otherwise nobody is selected.

    Args:
        tracks: tracks of one video, as `track_faces` returns them.
        audio: (samples,) float mono that starts at time 0 of the tracks, or None.
        sample_rate: Hz of the audio.
    """
    movement = tuple(_mouth_speed(track) for track in tracks)
    agreement = tuple(0.0 if audio is None else _sync_correlation(track, audio, sample_rate) for track in tracks)

    def chosen(track: int | None, reason: str) -> ActiveSpeaker:
        return ActiveSpeaker(track, reason, movement, agreement)

    people = prominent_tracks(tracks)
    if not people:
        return chosen(None, "no face is visible in enough frames")
    if len(people) == 1:
        return chosen(people[0], "the only person in focus")
    mover, next_mover = sorted(people, key=lambda person: -movement[person])[:2]
    fitting, next_fitting = sorted(people, key=lambda person: -agreement[person])[:2]
    audio_is_clear = (
        agreement[fitting] >= MIN_SYNC_CORRELATION
        and agreement[fitting] - agreement[next_fitting] >= MIN_SYNC_CORRELATION_MARGIN
    )
    if movement[mover] < MIN_MOUTH_SPEED:
        return chosen(None, f"{len(people)} people and no mouth moves as in speech ({movement[mover]:.2f} per second)")
    if movement[mover] >= MIN_MOUTH_SPEED_RATIO * movement[next_mover]:
        if audio_is_clear and fitting != mover:
            return chosen(None, f"{len(people)} people: one mouth moves most, but the audio matches another")
        ratio = movement[mover] / max(movement[next_mover], 1e-6)
        return chosen(mover, f"this mouth moves {ratio:.1f} times as much as the next")
    if audio_is_clear:
        return chosen(
            fitting, f"the audio matches this mouth ({agreement[fitting]:.2f}, next {agreement[next_fitting]:.2f})"
        )
    return chosen(
        None,
        f"{len(people)} people and the speaker is unclear: their mouths move alike "
        f"({movement[mover]:.2f} and {movement[next_mover]:.2f} per second)",
    )


def prominent_tracks(tracks: list[FaceTrack]) -> list[int]:
    """Returns the indices of the tracks that are visible long enough and large enough."""
    sizes = [float(np.nanmedian(track.interocular)) for track in tracks]
    return [
        number
        for number, track in enumerate(tracks)
        if track.known.mean() >= _MIN_VISIBLE_FRACTION and sizes[number] >= _MIN_RELATIVE_SIZE * max(sizes)
    ]


def _mouth_speed(track: FaceTrack) -> float:
    opening = smooth_to_grid(mouth_opening(track.landmarks), track.times, _MOUTH_SIGMA)
    speed = np.abs(np.diff(opening)) * GRID_RATE
    return float(np.nanmean(speed)) if np.isfinite(speed).any() else 0.0


def _sync_correlation(track: FaceTrack, audio: np.ndarray, sample_rate: int) -> float:
    opening = smooth_to_grid(mouth_opening(track.landmarks), track.times, _MOUTH_SIGMA)
    times = track.times[0] + np.arange(len(opening)) / GRID_RATE
    known = np.isfinite(opening)
    if known.sum() < GRID_RATE or opening[known].std() < 1e-6:
        return 0.0
    best = -1.0
    for lag in _LAGS:
        loudness = loudness_envelope(audio, sample_rate, times[known] + lag)
        if loudness.std() < 1e-6:
            return 0.0
        best = max(best, float(np.corrcoef(opening[known], loudness)[0, 1]))
    return best

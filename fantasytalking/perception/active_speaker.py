"""Which of several people in a video is the one that talks."""

from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness_envelope, smooth_to_grid

MIN_MOUTH_SPEED = 0.12
"""Mean speed of the mouth opening, interocular distances per second, below which nobody talks: a listener in real
footage shows about 0.07, talkers 0.28 to 0.76."""

MIN_MOUTH_SPEED_RATIO = 2.0
"""A mouth must move this many times as much as the next."""

MIN_SYNC_CORRELATION = 0.35
"""Sound decides only from this correlation on ..."""

MIN_SYNC_CORRELATION_MARGIN = 0.25
"""... and only with this lead: on real speech matched pairs often correlate no better than strangers do."""

# Somebody who is seen in fewer frames, or is smaller beside the largest face, is a passer-by.
_MIN_VISIBLE_FRACTION, _MIN_RELATIVE_SIZE = 0.3, 0.35
_MOUTH_SIGMA = 0.05
_LAGS = np.arange(-0.2, 0.21, 0.04)


class ActiveSpeaker(NamedTuple):
    """Who of several people talks."""

    track_index: int | None
    """Number of the track, None when it cannot be told."""
    reason: str
    """Why this one, or why none, in one line."""
    mouth_speeds: tuple[float, ...]
    """Per track: mean speed of the mouth opening, interocular distances per second."""
    sync_correlations: tuple[float, ...]
    """Per track: correlation of mouth opening and loudness at the best lag up to 0.2 s, in [-1, 1]; 0 without sound."""


def detect_active_speaker(
    tracks: list[FaceTrack], audio: np.ndarray | None = None, *, sample_rate: int = 16000
) -> ActiveSpeaker:
    """Chooses the talking person by the mouth's movement, and by its agreement with the sound where that is clear.

    One person beside passers-by is chosen without question. Of several, the one whose mouth moves
    `MIN_MOUTH_SPEED_RATIO` times as much as any other's is chosen, unless the sound clearly fits somebody else; where
    no mouth leads, the sound decides if it clearly fits one. In all other cases nobody is chosen.

    Args:
        tracks: as `track_faces` gives them.
        audio: (samples,) float mono that begins at time 0 of the tracks, or None.
    """
    movement = tuple(_mouth_speed(track) for track in tracks)
    agreement = tuple(0.0 if audio is None else _sync_correlation(track, audio, sample_rate) for track in tracks)

    def chosen(track: int | None, reason: str) -> ActiveSpeaker:
        return ActiveSpeaker(track, reason, movement, agreement)

    people = prominent_tracks(tracks)
    if not people:
        return chosen(None, "no face is seen in enough of the frames")
    if len(people) == 1:
        return chosen(people[0], "the only person in focus")
    mover, next_mover = sorted(people, key=lambda person: -movement[person])[:2]
    fitting, next_fitting = sorted(people, key=lambda person: -agreement[person])[:2]
    sound_is_clear = (
        agreement[fitting] >= MIN_SYNC_CORRELATION
        and agreement[fitting] - agreement[next_fitting] >= MIN_SYNC_CORRELATION_MARGIN
    )
    if movement[mover] < MIN_MOUTH_SPEED:
        return chosen(None, f"{len(people)} people and no mouth moves as in speech ({movement[mover]:.2f} a second)")
    if movement[mover] >= MIN_MOUTH_SPEED_RATIO * movement[next_mover]:
        if sound_is_clear and fitting != mover:
            return chosen(None, f"{len(people)} people: one mouth moves most, but the sound fits another")
        return chosen(mover, f"this mouth moves {movement[mover] / max(movement[next_mover], 1e-6):.1f} times the next")
    if sound_is_clear:
        return chosen(
            fitting, f"the sound fits this mouth ({agreement[fitting]:.2f}, next {agreement[next_fitting]:.2f})"
        )
    return chosen(
        None,
        f"{len(people)} people and it cannot be told who talks: their mouths move alike "
        f"({movement[mover]:.2f} and {movement[next_mover]:.2f} a second)",
    )


def prominent_tracks(tracks: list[FaceTrack]) -> list[int]:
    """Numbers of the tracks of people who are there long enough and large enough."""
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
        sound = loudness_envelope(audio, sample_rate, times[known] + lag)
        if sound.std() < 1e-6:
            return 0.0
        best = max(best, float(np.corrcoef(opening[known], sound)[0, 1]))
    return best

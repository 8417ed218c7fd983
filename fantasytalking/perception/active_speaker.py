"""Which of several people in a video is the one that talks."""

from typing import NamedTuple

import numpy as np

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.signals import GRID_RATE, loudness, smooth_to_grid

LEAST_MOVEMENT = 0.12
"""Mean speed of the mouth opening, interocular distances per second, below which nobody talks: a listener in real
footage shows about 0.07, talkers 0.28 to 0.76."""

CLEAR_LEAD = 2.0
"""A mouth must move this many times as much as the next."""

CLEAR_AGREEMENT = 0.35
"""Sound decides only from this correlation on ..."""

AGREEMENT_LEAD = 0.25
"""... and only with this lead: on real speech matched pairs often correlate no better than strangers do."""

# Somebody who is seen in fewer frames, or is smaller beside the largest face, is a passer-by.
_LEAST_SHARE, _LEAST_SIZE = 0.3, 0.35
_MOUTH_SIGMA = 0.05
_LAGS = np.arange(-0.2, 0.21, 0.04)


class TalkingChoice(NamedTuple):
    """Who of several people talks."""

    track: int | None
    """Number of the track, None when it cannot be told."""
    reason: str
    """Why this one, or why none, in one line."""
    movement: tuple[float, ...]
    """Per track: mean speed of the mouth opening, interocular distances per second."""
    agreement: tuple[float, ...]
    """Per track: correlation of mouth opening and loudness at the best lag up to 0.2 s, in [-1, 1]; 0 without sound."""


def choose_talking(
    tracks: list[FaceTrack], audio: np.ndarray | None = None, *, sample_rate: int = 16000
) -> TalkingChoice:
    """Chooses the talking person by the mouth's movement, and by its agreement with the sound where that is clear.

    One person beside passers-by is chosen without question. Of several, the one whose mouth moves `CLEAR_LEAD` times as
    much as any other's is chosen, unless the sound clearly fits somebody else; where no mouth leads, the sound decides
    if it clearly fits one. In all other cases nobody is chosen.

    Args:
        tracks: as `track_faces` gives them.
        audio: (samples,) float mono that begins at time 0 of the tracks, or None.
    """
    movement = tuple(_movement(track) for track in tracks)
    agreement = tuple(0.0 if audio is None else _agreement(track, audio, sample_rate) for track in tracks)

    def chosen(track: int | None, reason: str) -> TalkingChoice:
        return TalkingChoice(track, reason, movement, agreement)

    people = in_focus(tracks)
    if not people:
        return chosen(None, "no face is seen in enough of the frames")
    if len(people) == 1:
        return chosen(people[0], "the only person in focus")
    mover, next_mover = sorted(people, key=lambda person: -movement[person])[:2]
    fitting, next_fitting = sorted(people, key=lambda person: -agreement[person])[:2]
    sound_is_clear = (
        agreement[fitting] >= CLEAR_AGREEMENT and agreement[fitting] - agreement[next_fitting] >= AGREEMENT_LEAD
    )
    if movement[mover] < LEAST_MOVEMENT:
        return chosen(None, f"{len(people)} people and no mouth moves as in speech ({movement[mover]:.2f} a second)")
    if movement[mover] >= CLEAR_LEAD * movement[next_mover]:
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


def in_focus(tracks: list[FaceTrack]) -> list[int]:
    """Numbers of the tracks of people who are there long enough and large enough."""
    sizes = [float(np.nanmedian(track.interocular)) for track in tracks]
    return [
        number
        for number, track in enumerate(tracks)
        if track.known.mean() >= _LEAST_SHARE and sizes[number] >= _LEAST_SIZE * max(sizes)
    ]


def _movement(track: FaceTrack) -> float:
    opening = smooth_to_grid(mouth_opening(track.landmarks), track.times, _MOUTH_SIGMA)
    speed = np.abs(np.diff(opening)) * GRID_RATE
    return float(np.nanmean(speed)) if np.isfinite(speed).any() else 0.0


def _agreement(track: FaceTrack, audio: np.ndarray, sample_rate: int) -> float:
    opening = smooth_to_grid(mouth_opening(track.landmarks), track.times, _MOUTH_SIGMA)
    times = track.times[0] + np.arange(len(opening)) / GRID_RATE
    known = np.isfinite(opening)
    if known.sum() < GRID_RATE or opening[known].std() < 1e-6:
        return 0.0
    best = -1.0
    for lag in _LAGS:
        sound = loudness(audio, sample_rate, times[known] + lag)
        if sound.std() < 1e-6:
            return 0.0
        best = max(best, float(np.corrcoef(opening[known], sound)[0, 1]))
    return best

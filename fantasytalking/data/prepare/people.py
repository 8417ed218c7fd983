"""Selects the people of a clip: the active speaker or everyone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.data.manifest import ClipRejected, RejectionReason
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.media.framing import Framing
from fantasytalking.perception.active_speaker import detect_active_speaker, prominent_tracks
from fantasytalking.perception.face_track import FaceTrack


def select_people(tracks: list[FaceTrack], waveform: NDArray[np.float32], config: PreparationConfig) -> list[FaceTrack]:
    """Returns the tracks of the selected people, from left to right as in the first frame, without passers-by.

    Args:
        tracks: all tracks of the clip.
        waveform: (samples,) audio of the clip at 16 kHz.
        config: the settings.

    Raises:
        ClipRejected: there is no face, there are more people than `config.max_people` (with 1: several people without a
            clear active speaker), or somebody is not visible in the first frame.
    """
    if not tracks:
        raise ClipRejected(RejectionReason.NO_FACE, "no frame shows a face")
    chosen = (
        [_select_active_speaker(tracks, waveform)] if config.max_people == 1 else _select_all(tracks, config.max_people)
    )
    if not all(track.present[0] for track in chosen):
        raise ClipRejected(RejectionReason.FACE_LOST, "the face is not visible in the first frame")
    return sorted(chosen, key=lambda track: float(track.boxes[0, [0, 2]].sum()))


def _select_active_speaker(tracks: list[FaceTrack], waveform: NDArray[np.float32]) -> FaceTrack:
    if len(tracks) == 1:
        return tracks[0]
    choice = detect_active_speaker(tracks, waveform, sample_rate=AUDIO_SAMPLE_RATE)
    if choice.track_index is None:
        raise ClipRejected(RejectionReason.MULTIPLE_PEOPLE, choice.reason)
    return tracks[choice.track_index]


def _select_all(tracks: list[FaceTrack], max_people: int) -> list[FaceTrack]:
    people = prominent_tracks(tracks)
    if not people:
        raise ClipRejected(RejectionReason.FACE_LOST, "no face is visible in enough frames")
    if len(people) > max_people:
        raise ClipRejected(RejectionReason.MULTIPLE_PEOPLE, f"{len(people)} people; at most {max_people} are allowed")
    return [tracks[person] for person in people]


def tracks_center(tracks: Sequence[FaceTrack]) -> tuple[float, float]:
    """Returns the center (x, y) of the area that the faces cover, in source pixels."""
    boxes = np.concatenate([track.boxes for track in tracks])
    left, top = np.nanmin(boxes[:, :2], axis=0)
    right, bottom = np.nanmax(boxes[:, 2:], axis=0)
    return float(left + right) / 2, float(top + bottom) / 2


def transform_track(track: FaceTrack, framing: Framing, offset: tuple[int, int]) -> FaceTrack:
    """Returns the track in pixels of the prepared frames."""
    landmarks = framing.transform_points(track.landmarks, offset)
    return replace(track, landmarks=landmarks, height=framing.bucket.height, width=framing.bucket.width)

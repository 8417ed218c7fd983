"""Selects the people of a clip, the active speaker or everyone, and checks that their faces are usable."""

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
from fantasytalking.perception.multi_person_filter import (
    LANDMARK_JITTER,
    MultiPersonFilterConfig,
    MultiPersonRejection,
    PersonQuality,
    assess_people,
)


def select_people(tracks: list[FaceTrack], waveform: NDArray[np.float32], config: PreparationConfig) -> list[FaceTrack]:
    """Returns the tracks of the selected people, from left to right as in the first frame, without passers-by.

    Args:
        tracks: all tracks of the clip.
        waveform: (samples,) audio of the clip at 16 kHz.
        config: the settings.

    Raises:
        ClipRejected: there is no face, there are more people than `config.max_people` (with 1: several people without a
            clear active speaker), or a face is visible too rarely or with too low a score.
    """
    if not tracks:
        raise ClipRejected(RejectionReason.NO_FACE, "no frame shows a face")
    chosen = (
        [_select_active_speaker(tracks, waveform)] if config.max_people == 1 else _select_all(tracks, config.max_people)
    )
    for track in chosen:
        _check_visibility(track, config)
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


def _check_visibility(track: FaceTrack, config: PreparationConfig) -> None:
    """Checks that the face is visible often enough, in the first frame, and with a sufficient score."""
    fraction = float(track.known.mean())
    if fraction < config.min_visible_fraction or not track.present[0]:
        first = "" if track.present[0] else ", not in the first"
        needed = f"at least {config.min_visible_fraction:.0%} are needed"
        detail = f"the face is visible in {fraction:.0%} of the frames{first}; {needed}"
        raise ClipRejected(RejectionReason.FACE_LOST, detail)
    confidence = float(track.confidence[track.present].mean())
    if confidence < config.min_face_confidence:
        raise ClipRejected(
            RejectionReason.LOW_CONFIDENCE, f"{confidence:.3f}; at least {config.min_face_confidence:g} is needed"
        )


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


def check_face_placement(track: FaceTrack, config: PreparationConfig) -> None:
    """Checks that the face is large enough and within the prepared frames.

    Raises:
        ClipRejected: it is too small or cut off.
    """
    boxes = track.boxes[track.known]
    size = float(np.median(boxes[:, 3] - boxes[:, 1])) / track.height
    if size < config.min_face_size:
        raise ClipRejected(
            RejectionReason.FACE_TOO_SMALL,
            f"{size:.3f} of the frame's height; at least {config.min_face_size:g} is needed",
        )
    middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (middle_x > 0) & (middle_x < track.width) & (middle_y > 0) & (boxes[:, 3] <= track.height * 1.02)
    fraction = float(inside.mean())
    if fraction < config.min_visible_fraction:
        needed = f"at least {config.min_visible_fraction:.0%} are needed"
        raise ClipRejected(
            RejectionReason.FACE_CUT_OFF, f"the face is complete in {fraction:.0%} of the frames; {needed}"
        )


def check_people_quality(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], scale: float, config: PreparationConfig
) -> None:
    """Checks that each of several people is sharp, moving, and visible together with the others.

    A clip of one person is not checked, nor is any clip without `config.filter_people`.

    Args:
        frames: (T, H, W, 3) uint8, the prepared frames.
        tracks: the people to encode, in pixels of these frames.
        scale: pixels of these frames per pixel of the frames in which the faces were tracked.
        config: the settings.

    Raises:
        ClipRejected: a person is blurred, static or too small, or the people are visible together too rarely.
    """
    if not config.filter_people or len(tracks) == 1:
        return
    limits = MultiPersonFilterConfig(
        min_people=len(tracks),  # the model would learn stillness from a static face
        min_visible_fraction=config.min_visible_fraction,
        min_face_size=config.min_face_size,
        min_face_pixels=config.min_face_pixels,
        max_blur=config.max_face_blur,
        min_movement=config.min_face_movement,
        landmark_jitter=LANDMARK_JITTER * scale,
    )
    assessment = assess_people(frames, tracks, limits)
    if assessment.rejections:
        reasons = [_rejection_reason(one, assessment.qualities, tracks, config) for one in assessment.rejections]
        raise ClipRejected(reasons[0][0], "; ".join(detail for _, detail in reasons))


def _rejection_reason(
    rejection: MultiPersonRejection,
    qualities: Sequence[PersonQuality],
    tracks: Sequence[FaceTrack],
    config: PreparationConfig,
) -> tuple[RejectionReason, str]:
    """Returns the reason with the worst value and the limit."""
    if rejection is MultiPersonRejection.BLURRED:
        blur = max(person.blur for person in qualities)
        return RejectionReason.BLURRED, f"the blur of a face is {blur:.3f}; at most {config.max_face_blur:g} is allowed"
    if rejection is MultiPersonRejection.STATIC:
        movement = min(person.movement for person in qualities)
        needed = f"at least {config.min_face_movement:g} is needed"
        return (
            RejectionReason.STATIC_FACES,
            f"the movement of a face is {movement:.6f} squared interocular distances; {needed}",
        )
    smallest = min(person.face_height * track.height for person, track in zip(qualities, tracks, strict=True))
    if smallest < config.min_face_pixels:
        needed = f"at least {config.min_face_pixels} are needed in clips of several people"
        return RejectionReason.FACE_TOO_SMALL, f"a face is {smallest:.1f} pixels high; {needed}"
    fraction = float(np.all([track.known for track in tracks], axis=0).mean())
    needed = f"at least {config.min_visible_fraction:.0%} are needed"
    return (
        RejectionReason.FACE_LOST,
        f"all {len(tracks)} people are visible together in {fraction:.0%} of the frames; {needed}",
    )

"""Whose faces a clip is about: the one who talks, or everybody in it; and whether they are seen well enough."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fantasytalking.data.manifest import ClipRejected, RejectionReason
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE
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
    """Whose faces it is about, from left to right as in the first frame; passers-by are left out.

    Raises:
        Refused: nobody, more people than `config.people` (with 1: several among whom nobody clearly talks), or somebody
            is seen too rarely or too uncertainly.
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
    choice = detect_active_speaker(tracks, waveform, sample_rate=WAV2VEC_SAMPLE_RATE)
    if choice.track_index is None:
        raise ClipRejected(RejectionReason.MULTIPLE_PEOPLE, choice.reason)
    return tracks[choice.track_index]


def _select_all(tracks: list[FaceTrack], max_people: int) -> list[FaceTrack]:
    people = prominent_tracks(tracks)
    if not people:
        raise ClipRejected(RejectionReason.FACE_LOST, "no face is seen in enough of the frames")
    if len(people) > max_people:
        raise ClipRejected(RejectionReason.MULTIPLE_PEOPLE, f"{len(people)} people, at most {max_people} are wanted")
    return [tracks[person] for person in people]


def _check_visibility(track: FaceTrack, config: PreparationConfig) -> None:
    """The face is seen often enough, from the first frame on, and surely."""
    share = float(track.known.mean())
    if share < config.min_visible_fraction or not track.present[0]:
        first = "" if track.present[0] else ", not in the first"
        detail = (
            f"the face is in {share:.0%} of the frames{first}; at least {config.min_visible_fraction:.0%} are needed"
        )
        raise ClipRejected(RejectionReason.FACE_LOST, detail)
    confidence = float(track.confidence[track.present].mean())
    if confidence < config.min_face_confidence:
        raise ClipRejected(
            RejectionReason.LOW_CONFIDENCE, f"{confidence:.3f}, at least {config.min_face_confidence:g} is needed"
        )


def tracks_center(tracks: Sequence[FaceTrack]) -> tuple[float, float]:
    """Middle of all places that the faces take, in source pixels."""
    boxes = np.concatenate([track.boxes for track in tracks])
    left, top = np.nanmin(boxes[:, :2], axis=0)
    right, bottom = np.nanmax(boxes[:, 2:], axis=0)
    return float(left + right) / 2, float(top + bottom) / 2


def transform_track(track: FaceTrack, framing: Framing, offset: tuple[int, int]) -> FaceTrack:
    """The track in pixels of the prepared picture."""
    landmarks = framing.transform_points(track.landmarks, offset)
    return replace(track, landmarks=landmarks, height=framing.bucket.height, width=framing.bucket.width)


def check_face_placement(track: FaceTrack, config: PreparationConfig) -> None:
    """Holds that the face is large enough and within the prepared picture.

    Raises:
        Refused: it is not.
    """
    boxes = track.boxes[track.known]
    size = float(np.median(boxes[:, 3] - boxes[:, 1])) / track.height
    if size < config.min_face_size:
        raise ClipRejected(
            RejectionReason.FACE_TOO_SMALL,
            f"{size:.3f} of the picture's height, at least {config.min_face_size:g} is needed",
        )
    middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (middle_x > 0) & (middle_x < track.width) & (middle_y > 0) & (boxes[:, 3] <= track.height * 1.02)
    share = float(inside.mean())
    if share < config.min_visible_fraction:
        raise ClipRejected(RejectionReason.FACE_CUT_OFF, f"the face is whole in {share:.0%} of the frames")


def check_people_quality(
    frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], scale: float, config: PreparationConfig
) -> None:
    """Holds that each of several people can be learned from: sharp, moving, and seen together with the others.

    Nothing is held of one person, nor of anybody where `config.judge_people` is off.

    Args:
        frames: (T, H, W, 3) uint8, the prepared pictures.
        tracks: the people whom the features will tell of, in pixels of these pictures.
        scale: these pixels for one of the pictures in which the faces were followed.

    Raises:
        Refused: somebody is blurred, still or too small, or they are too rarely seen together.
    """
    if not config.filter_people or len(tracks) == 1:
        return
    limits = MultiPersonFilterConfig(
        min_people=len(tracks),  # a still face among them would teach stillness
        min_visible_fraction=config.min_visible_fraction,
        min_face_size=config.min_face_size,
        min_face_pixels=config.min_face_pixels,
        max_blur=config.max_face_blur,
        min_movement=config.min_face_movement,
        landmark_jitter=LANDMARK_JITTER * scale,
    )
    judgement = assess_people(frames, tracks, limits)
    if judgement.rejections:
        told = [_rejection_reason(refusal, judgement.qualities, tracks, config) for refusal in judgement.rejections]
        raise ClipRejected(told[0][0], "; ".join(detail for _, detail in told))


def _rejection_reason(
    rejection: MultiPersonRejection,
    qualities: Sequence[PersonQuality],
    tracks: Sequence[FaceTrack],
    config: PreparationConfig,
) -> tuple[RejectionReason, str]:
    """Why, with the value that is furthest off and the limit."""
    if rejection is MultiPersonRejection.BLURRED:
        blur = max(person.blur for person in qualities)
        return RejectionReason.BLURRED, f"the blur of a face is {blur:.3f}, at most {config.max_face_blur:g} is allowed"
    if rejection is MultiPersonRejection.STATIC:
        movement = min(person.movement for person in qualities)
        least = f"at least {config.min_face_movement:g} is needed"
        return (
            RejectionReason.STATIC_FACES,
            f"the movement of a face is {movement:.6f} squared interocular distances, {least}",
        )
    smallest = min(person.face_height * track.height for person, track in zip(qualities, tracks, strict=True))
    if smallest < config.min_face_pixels:
        least = f"at least {config.min_face_pixels} are needed to learn from several people"
        return RejectionReason.FACE_TOO_SMALL, f"a face is {smallest:.1f} pixels high, {least}"
    share = float(np.all([track.known for track in tracks], axis=0).mean())
    least = f"at least {config.min_visible_fraction:.0%} are needed"
    return (
        RejectionReason.FACE_LOST,
        f"all {len(tracks)} people are seen together in {share:.0%} of the frames; {least}",
    )

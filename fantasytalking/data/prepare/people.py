"""Whose faces a clip is about: the one who talks, or everybody in it; and whether they are seen well enough."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fantasytalking.data.clip_rejected import Refused
from fantasytalking.data.manifest import Reason
from fantasytalking.data.prepare.config import DataConfig
from fantasytalking.data.prepare.framing import Framing
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.perception.active_speaker import choose_talking, in_focus
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.multi_person_filter import (
    TREMBLING,
    Measured,
    Refusal,
    SeveralPeopleConfig,
    judge_people,
)


def choose_people(tracks: list[FaceTrack], samples: NDArray[np.float32], config: DataConfig) -> list[FaceTrack]:
    """Whose faces it is about, from left to right as in the first frame; passers-by are left out.

    Raises:
        Refused: nobody, more people than `config.people` (with 1: several among whom nobody clearly talks), or somebody
            is seen too rarely or too uncertainly.
    """
    if not tracks:
        raise Refused(Reason.NO_FACE, "no frame shows a face")
    chosen = [_choose_one(tracks, samples)] if config.people == 1 else _choose_all(tracks, config.people)
    for track in chosen:
        _check_sight(track, config)
    return sorted(chosen, key=lambda track: float(track.boxes[0, [0, 2]].sum()))


def _choose_one(tracks: list[FaceTrack], samples: NDArray[np.float32]) -> FaceTrack:
    if len(tracks) == 1:
        return tracks[0]
    choice = choose_talking(tracks, samples, sample_rate=SAMPLE_RATE)
    if choice.track is None:
        raise Refused(Reason.SEVERAL_PEOPLE, choice.reason)
    return tracks[choice.track]


def _choose_all(tracks: list[FaceTrack], most: int) -> list[FaceTrack]:
    people = in_focus(tracks)
    if not people:
        raise Refused(Reason.FACE_LOST, "no face is seen in enough of the frames")
    if len(people) > most:
        raise Refused(Reason.SEVERAL_PEOPLE, f"{len(people)} people, at most {most} are wanted")
    return [tracks[person] for person in people]


def _check_sight(track: FaceTrack, config: DataConfig) -> None:
    """The face is seen often enough, from the first frame on, and surely."""
    share = float(track.known.mean())
    if share < config.min_face_share or not track.present[0]:
        first = "" if track.present[0] else ", not in the first"
        detail = f"the face is in {share:.0%} of the frames{first}; at least {config.min_face_share:.0%} are needed"
        raise Refused(Reason.FACE_LOST, detail)
    confidence = float(track.confidence[track.present].mean())
    if confidence < config.min_confidence:
        raise Refused(Reason.LOW_CONFIDENCE, f"{confidence:.3f}, at least {config.min_confidence:g} is needed")


def centre_of(tracks: Sequence[FaceTrack]) -> tuple[float, float]:
    """Middle of all places that the faces take, in source pixels."""
    boxes = np.concatenate([track.boxes for track in tracks])
    left, top = np.nanmin(boxes[:, :2], axis=0)
    right, bottom = np.nanmax(boxes[:, 2:], axis=0)
    return float(left + right) / 2, float(top + bottom) / 2


def moved_track(track: FaceTrack, framing: Framing, offset: tuple[int, int]) -> FaceTrack:
    """The track in pixels of the prepared picture."""
    landmarks = framing.move(track.landmarks, offset)
    return replace(track, landmarks=landmarks, height=framing.bucket.height, width=framing.bucket.width)


def check_place(track: FaceTrack, config: DataConfig) -> None:
    """Holds that the face is large enough and within the prepared picture.

    Raises:
        Refused: it is not.
    """
    boxes = track.boxes[track.known]
    size = float(np.median(boxes[:, 3] - boxes[:, 1])) / track.height
    if size < config.min_face_size:
        raise Refused(
            Reason.FACE_TOO_SMALL, f"{size:.3f} of the picture's height, at least {config.min_face_size:g} is needed"
        )
    middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = (middle_x > 0) & (middle_x < track.width) & (middle_y > 0) & (boxes[:, 3] <= track.height * 1.02)
    share = float(inside.mean())
    if share < config.min_face_share:
        raise Refused(Reason.FACE_CUT_OFF, f"the face is whole in {share:.0%} of the frames")


def judge_faces(frames: NDArray[np.uint8], tracks: Sequence[FaceTrack], scale: float, config: DataConfig) -> None:
    """Holds that each of several people can be learned from: sharp, moving, and seen together with the others.

    Nothing is held of one person, nor of anybody where `config.judge_people` is off.

    Args:
        frames: (T, H, W, 3) uint8, the prepared pictures.
        tracks: the people whom the features will tell of, in pixels of these pictures.
        scale: these pixels for one of the pictures in which the faces were followed.

    Raises:
        Refused: somebody is blurred, still or too small, or they are too rarely seen together.
    """
    if not config.judge_people or len(tracks) == 1:
        return
    limits = SeveralPeopleConfig(
        min_people=len(tracks),  # a still face among them would teach stillness
        min_share=config.min_face_share,
        min_face_size=config.min_face_size,
        min_face_pixels=config.min_face_pixels,
        max_blur=config.max_face_blur,
        min_movement=config.min_face_movement,
        trembling=TREMBLING * scale,
    )
    judgement = judge_people(frames, tracks, limits)
    if judgement.refusals:
        told = [_reason(refusal, judgement.measured, tracks, config) for refusal in judgement.refusals]
        raise Refused(told[0][0], "; ".join(detail for _, detail in told))


def _reason(
    refusal: Refusal, measured: Sequence[Measured], tracks: Sequence[FaceTrack], config: DataConfig
) -> tuple[Reason, str]:
    """Why, with the value that is furthest off and the limit."""
    if refusal is Refusal.BLURRED:
        blur = max(person.blur for person in measured)
        return Reason.BLURRED, f"the blur of a face is {blur:.3f}, at most {config.max_face_blur:g} is allowed"
    if refusal is Refusal.STILL:
        movement = min(person.movement for person in measured)
        least = f"at least {config.min_face_movement:g} is needed"
        return Reason.STILL_FACES, f"the movement of a face is {movement:.6f} squared interocular distances, {least}"
    smallest = min(person.size * track.height for person, track in zip(measured, tracks, strict=True))
    if smallest < config.min_face_pixels:
        least = f"at least {config.min_face_pixels} are needed to learn from several people"
        return Reason.FACE_TOO_SMALL, f"a face is {smallest:.1f} pixels high, {least}"
    share = float(np.all([track.known for track in tracks], axis=0).mean())
    least = f"at least {config.min_face_share:.0%} are needed"
    return Reason.FACE_LOST, f"all {len(tracks)} people are seen together in {share:.0%} of the frames; {least}"

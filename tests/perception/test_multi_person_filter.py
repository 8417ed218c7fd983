"""The multi-person filter accepts the good clips and reports the faults of the others."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.multi_person_filter import (
    MultiPersonAssessment,
    MultiPersonFilterConfig,
    MultiPersonRejection,
    assess_people,
)
from tests.helpers.errors import raises_input_error
from tests.perception.faulty_clips import FAULT_KINDS, FaultyClip, FaultyClipRenderer

SEED, SECONDS = 10, 1.6


def judge(clip: FaultyClip) -> MultiPersonAssessment:
    return assess_people(clip.frames, track_faces(clip.frames, clip.times))


def agrees(clip: FaultyClip, judgement: MultiPersonAssessment) -> bool:
    """Whether the assessment is right; a face too blurred to be detected counts as missing."""
    if clip.rejection is MultiPersonRejection.BLURRED:
        return bool({MultiPersonRejection.BLURRED, MultiPersonRejection.TOO_FEW_PEOPLE} & set(judgement.rejections))
    return (clip.rejection,) == judgement.rejections if clip.rejection else judgement.accepted


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Rendering small images gains nothing from more threads, which wait for each other on busy cores."""
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def moving() -> FaultyClip:
    return FaultyClipRenderer(96, SEED, SECONDS).clip("two moving")


@pytest.fixture(scope="module")
def tracks(moving: FaultyClip) -> list[FaceTrack]:
    return track_faces(moving.frames, moving.times)


def test_two_moving_people_are_accepted_from_left_to_right(moving: FaultyClip, tracks: list[FaceTrack]) -> None:
    judgement = assess_people(moving.frames, tracks)
    assert judgement.accepted
    assert sorted(judgement.person_indices) == [0, 1]
    left, right = (float(np.nanmean(tracks[number].boxes[:, 0])) for number in judgement.person_indices)
    assert left < right
    assert assess_people(moving.frames, tracks[::-1]).person_indices == tuple(
        1 - number for number in judgement.person_indices
    )


@pytest.mark.parametrize("kind", ["passer-by", "two still", "two blurred"])
def test_faults_are_reported(kind: str) -> None:
    clip = FaultyClipRenderer(96, SEED, SECONDS).clip(kind)
    judgement = judge(clip)
    assert agrees(clip, judgement), (judgement.rejections, judgement.qualities)


def test_a_photograph_on_the_wall_is_not_a_second_person() -> None:
    clip = FaultyClipRenderer(128, SEED, SECONDS).clip("photograph")
    judgement = judge(clip)
    assert judgement.rejections == (MultiPersonRejection.STATIC,), judgement.qualities
    assert len(judgement.person_indices) == 1
    assert len(judgement.qualities) == 2


@pytest.mark.parametrize(
    ("limit", "refusal"),
    [
        ({"min_people": 3}, MultiPersonRejection.TOO_FEW_PEOPLE),
        ({"min_face_size": 0.9}, MultiPersonRejection.TOO_FEW_PEOPLE),
        ({"min_face_pixels": 90}, MultiPersonRejection.TOO_FEW_PEOPLE),
        ({"max_blur": 0.1}, MultiPersonRejection.BLURRED),
        ({"min_movement": 0.9}, MultiPersonRejection.STATIC),
    ],
)
def test_every_limit_counts(
    limit: dict[str, float], refusal: MultiPersonRejection, moving: FaultyClip, tracks: list[FaceTrack]
) -> None:
    config = MultiPersonFilterConfig(**limit)  # type: ignore[arg-type]
    judgement = assess_people(moving.frames, tracks, config)
    assert judgement.rejections == (refusal,)
    assert len(judgement.person_indices) < config.min_people


def test_people_who_appear_in_turn_are_too_few(moving: FaultyClip, tracks: list[FaceTrack]) -> None:
    """Each for 60 % of the frames, together for 20 %."""
    count = len(moving.frames)
    seen = np.arange(count) < 0.6 * count, np.arange(count) >= 0.4 * count
    in_turn = [hidden(track, part) for track, part in zip(tracks, seen, strict=True)]
    loose = MultiPersonFilterConfig(min_visible_fraction=0.55)
    assert assess_people(moving.frames, tracks, loose).accepted
    assert assess_people(moving.frames, in_turn, loose).rejections == (MultiPersonRejection.TOO_FEW_PEOPLE,)


def hidden(track: FaceTrack, seen: np.ndarray) -> FaceTrack:
    """The same face, known only where `seen`."""
    landmarks = np.where(seen[:, None, None], track.landmarks, np.nan).astype(np.float32)
    return replace(track, landmarks=landmarks, present=track.present & seen, interpolated=track.interpolated & seen)


def test_no_track_is_too_few(moving: FaultyClip) -> None:
    judgement = assess_people(moving.frames, [])
    assert (judgement.rejections, judgement.person_indices, judgement.qualities) == (
        (MultiPersonRejection.TOO_FEW_PEOPLE,),
        (),
        (),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_people": 1},
        {"min_visible_fraction": 0.0},
        {"min_face_size": 1.5},
        {"min_face_pixels": 4},
        {"max_blur": 0.0},
        {"min_movement": -1e-9},
        {"landmark_jitter": -0.1},
    ],
)
def test_invalid_limits_are_refused(wrong: dict[str, float], moving: FaultyClip) -> None:
    ((field, value),) = wrong.items()
    with raises_input_error(ErrorCode.out_of_range, field, value):
        assess_people(moving.frames, [], MultiPersonFilterConfig(**wrong))  # type: ignore[arg-type]


def test_tracks_of_another_clip_are_refused(moving: FaultyClip, tracks: list[FaceTrack]) -> None:
    with raises_input_error(ErrorCode.shape_mismatch, "tracks", len(moving.frames)):
        assess_people(moving.frames[:-1], tracks)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_precision_and_recall_on_planted_clips() -> None:
    wanted = [(kind, seed) for kind, (_, refusal) in FAULT_KINDS.items() for seed in range(6 if refusal else 12)]
    counts: Counter[tuple[bool, bool]] = Counter()
    right = 0
    for kind, seed in wanted:
        clip = FaultyClipRenderer(128, 100 + seed).clip(kind)
        judgement = judge(clip)
        counts[clip.rejection is None, judgement.accepted] += 1
        right += agrees(clip, judgement)
        if not agrees(clip, judgement):
            print(f"{kind} {seed}: {judgement}")  # noqa: T201
    precision = counts[True, True] / max(1, counts[True, True] + counts[False, True])
    recall = counts[True, True] / max(1, counts[True, True] + counts[True, False])
    print(f"{len(wanted)} clips: precision {precision:.3f}, recall {recall:.3f}, reasons {right / len(wanted):.3f}")  # noqa: T201
    assert precision >= 0.9
    assert recall >= 0.8

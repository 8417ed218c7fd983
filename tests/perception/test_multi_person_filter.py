"""The filter for pictures of several people keeps the good ones of planted clips and says what the others lack."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.perception.face_track import FaceTrack, track_faces
from fantasytalking.perception.multi_person_filter import Judgement, Refusal, SeveralPeopleConfig, judge_people
from tests.perception.faulty_clips import KINDS, Planted, Planter

SEED = 10


def judge(clip: Planted) -> Judgement:
    return judge_people(clip.frames, track_faces(clip.frames, clip.times))


def agrees(clip: Planted, judgement: Judgement) -> bool:
    """A face that is blurred beyond being found is nobody's."""
    if clip.refusal is Refusal.BLURRED:
        return bool({Refusal.BLURRED, Refusal.TOO_FEW_PEOPLE} & set(judgement.refusals))
    return (clip.refusal,) == judgement.refusals if clip.refusal else judgement.kept


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Drawing small pictures gains nothing from more, and they wait for each other on busy cores."""
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def moving() -> Planted:
    return Planter(96, SEED).clip("two moving")


@pytest.fixture(scope="module")
def tracks(moving: Planted) -> list[FaceTrack]:
    return track_faces(moving.frames, moving.times)


def test_two_lively_people_are_kept_from_left_to_right(moving: Planted, tracks: list[FaceTrack]) -> None:
    judgement = judge_people(moving.frames, tracks)
    assert judgement.kept
    assert sorted(judgement.people) == [0, 1]
    left, right = (float(np.nanmean(tracks[number].boxes[:, 0])) for number in judgement.people)
    assert left < right
    assert judge_people(moving.frames, tracks[::-1]).people == tuple(1 - number for number in judgement.people)


@pytest.mark.parametrize("kind", ["passer-by", "two still", "two blurred"])
def test_what_is_wrong_is_said(kind: str) -> None:
    clip = Planter(96, SEED).clip(kind)
    judgement = judge(clip)
    assert agrees(clip, judgement), (judgement.refusals, judgement.measured)


def test_a_photograph_on_the_wall_is_no_second_person() -> None:
    clip = Planter(128, SEED).clip("photograph")
    judgement = judge(clip)
    assert judgement.refusals == (Refusal.STILL,), judgement.measured
    assert len(judgement.people) == 1
    assert len(judgement.measured) == 2


@pytest.mark.parametrize(
    ("limit", "refusal"),
    [
        ({"min_people": 3}, Refusal.TOO_FEW_PEOPLE),
        ({"min_face_size": 0.9}, Refusal.TOO_FEW_PEOPLE),
        ({"min_face_pixels": 90}, Refusal.TOO_FEW_PEOPLE),
        ({"max_blur": 0.1}, Refusal.BLURRED),
        ({"min_movement": 0.9}, Refusal.STILL),
    ],
)
def test_every_limit_counts(
    limit: dict[str, float], refusal: Refusal, moving: Planted, tracks: list[FaceTrack]
) -> None:
    config = SeveralPeopleConfig(**limit)  # type: ignore[arg-type]
    judgement = judge_people(moving.frames, tracks, config)
    assert judgement.refusals == (refusal,)
    assert len(judgement.people) < config.min_people


def test_people_who_are_seen_in_turn_are_too_few(moving: Planted, tracks: list[FaceTrack]) -> None:
    """Each for 60 % of the frames, together for 20 %."""
    count = len(moving.frames)
    seen = np.arange(count) < 0.6 * count, np.arange(count) >= 0.4 * count
    in_turn = [hidden(track, part) for track, part in zip(tracks, seen, strict=True)]
    loose = SeveralPeopleConfig(min_share=0.55)
    assert judge_people(moving.frames, tracks, loose).kept
    assert judge_people(moving.frames, in_turn, loose).refusals == (Refusal.TOO_FEW_PEOPLE,)


def hidden(track: FaceTrack, seen: np.ndarray) -> FaceTrack:
    """The same face, known only where `seen`."""
    landmarks = np.where(seen[:, None, None], track.landmarks, np.nan).astype(np.float32)
    return replace(track, landmarks=landmarks, present=track.present & seen, interpolated=track.interpolated & seen)


def test_nobody_at_all_is_too_few(moving: Planted) -> None:
    judgement = judge_people(moving.frames, [])
    assert (judgement.refusals, judgement.people, judgement.measured) == ((Refusal.TOO_FEW_PEOPLE,), (), ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_people": 1},
        {"min_share": 0.0},
        {"min_face_size": 1.5},
        {"min_face_pixels": 4},
        {"max_blur": 0.0},
        {"min_movement": -1e-9},
        {"trembling": -0.1},
    ],
)
def test_impossible_limits_are_refused(wrong: dict[str, float], moving: Planted) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        judge_people(moving.frames, [], SeveralPeopleConfig(**wrong))  # type: ignore[arg-type]


def test_tracks_of_another_clip_are_refused(moving: Planted, tracks: list[FaceTrack]) -> None:
    with pytest.raises(InputError, match="followed over"):
        judge_people(moving.frames[:-1], tracks)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_precision_and_recall_on_planted_clips() -> None:
    wanted = [(kind, seed) for kind, (_, refusal) in KINDS.items() for seed in range(6 if refusal else 12)]
    counts: Counter[tuple[bool, bool]] = Counter()
    right = 0
    for kind, seed in wanted:
        clip = Planter(128, 100 + seed).clip(kind)
        judgement = judge(clip)
        counts[clip.refusal is None, judgement.kept] += 1
        right += agrees(clip, judgement)
        if not agrees(clip, judgement):
            print(f"{kind} {seed}: {judgement}")  # noqa: T201
    precision = counts[True, True] / max(1, counts[True, True] + counts[False, True])
    recall = counts[True, True] / max(1, counts[True, True] + counts[True, False])
    print(f"{len(wanted)} clips: precision {precision:.3f}, recall {recall:.3f}, reasons {right / len(wanted):.3f}")  # noqa: T201
    assert precision >= 0.9
    assert recall >= 0.8

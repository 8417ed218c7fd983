"""Tests of frames with several people: independent motion, occlusion and boxes."""

import numpy as np
import pytest

from fantasytalking.portrait_world.corpus.group_scene import GroupRenderer
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState

WIDTH, HEIGHT = 160, 96
SPEAKING = FaceState(mouth_open=0.8, brow=0.8)


@pytest.fixture(scope="module")
def group() -> GroupRenderer:
    return GroupRenderer((20, 31), (WIDTH, HEIGHT), 1.0, np.random.default_rng(0))


def inside(box: np.ndarray, change: np.ndarray) -> float:
    """Returns the fraction of the changed pixels in a box."""
    rows, columns = np.nonzero(change)
    left, top, right, bottom = box
    return float(((columns >= left - 1) & (columns <= right) & (rows >= top - 1) & (rows <= bottom)).mean())


@pytest.mark.parametrize("person", [0, 1])
def test_a_state_changes_only_its_own_face(group: GroupRenderer, person: int) -> None:
    states = [NEUTRAL, NEUTRAL]
    states[person] = SPEAKING
    change = np.abs(group.frame(states).astype(int) - group.portrait()).max(-1) > 12
    assert change.sum() > 40
    assert inside(group.face_boxes(states)[person], change) > 0.97
    assert inside(group.face_boxes(states)[1 - person], change) < 0.1


def test_people_are_placed_left_to_right_and_reproducibly(group: GroupRenderer) -> None:
    boxes = group.face_boxes([NEUTRAL, NEUTRAL])
    assert boxes.shape == (2, 4)
    assert boxes[0, 0] < boxes[1, 0]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [WIDTH, HEIGHT]).all()
    again = GroupRenderer((20, 31), (WIDTH, HEIGHT), 1.0, np.random.default_rng(0))
    assert np.array_equal(again.portrait(), group.portrait())
    elsewhere = GroupRenderer((20, 31), (WIDTH, HEIGHT), 1.0, np.random.default_rng(1))
    assert not np.array_equal(elsewhere.face_boxes([NEUTRAL] * 2), boxes)


def test_the_camera_moves_people_boxes_and_backdrop_together(group: GroupRenderer) -> None:
    still, moved = group.portrait().astype(float), group.frame([NEUTRAL, NEUTRAL], (6 / HEIGHT, -4 / HEIGHT))
    assert np.abs(moved[8:80, 12:150] - still[12:84, 6:144]).mean() < 1
    assert np.abs(moved[8:80, 12:150] - still[8:80, 12:150]).mean() > 4
    boxes = group.face_boxes([NEUTRAL, NEUTRAL], (6 / HEIGHT, -4 / HEIGHT)) - group.face_boxes([NEUTRAL, NEUTRAL])
    assert boxes == pytest.approx(np.tile([6, -4, 6, -4], (2, 1)), abs=0.01)


def test_the_nearer_person_is_in_front(group: GroupRenderer) -> None:
    touching = next(
        group
        for seed in range(20)
        if (group := GroupRenderer((20, 31, 4), (3 * 64, HEIGHT), 1.0, np.random.default_rng(seed))).face_boxes(
            [NEUTRAL] * 3
        )[0, 2]
        > group.face_boxes([NEUTRAL] * 3)[1, 0]
    )
    near, far = sorted((0, 1), key=lambda index: -touching.placements[index].zoom)
    alone = [FaceState(y=2.0)] * 3  # two of the three are far below the picture
    alone[near] = NEUTRAL
    box = touching.face_boxes([NEUTRAL] * 3)[near].round().astype(int)
    face = slice(box[1], box[3]), slice(box[0], box[2])
    assert np.abs(touching.portrait()[face].astype(int) - touching.frame(alone)[face]).max(-1).mean() < 3
    alone = [FaceState(y=2.0)] * 3
    alone[far] = NEUTRAL
    box = touching.face_boxes([NEUTRAL] * 3)[far].round().astype(int)
    face = slice(box[1], box[3]), slice(box[0], box[2])
    assert np.abs(touching.portrait()[face].astype(int) - touching.frame(alone)[face]).max(-1).mean() > 3


def test_everyone_has_the_same_light(group: GroupRenderer) -> None:
    assert group.people[0].identity.light_side == group.people[1].identity.light_side
    assert group.people[0].identity.number == 20

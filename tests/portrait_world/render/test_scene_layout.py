"""Tests of the layout of several people: within the image, with visible eyes and mouths, sometimes touching."""

from itertools import pairwise

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.portrait_world.render.camera import MIN_ZOOM, PORTRAIT_HEIGHT_UNITS
from fantasytalking.portrait_world.render.scene_layout import VISIBLE_FACE_HALF_WIDTH, PersonPlacement, arrange_people
from tests.helpers.errors import raises_input_error

WIDEST, NARROWEST = 1.05, 0.75


def spans(placements: tuple[PersonPlacement, ...], half_widths: list[float]) -> list[tuple[float, float]]:
    """Returns the left and right ends of half widths in head units around each person, in image heights."""
    halves = [
        half * placement.zoom / PORTRAIT_HEIGHT_UNITS for half, placement in zip(half_widths, placements, strict=True)
    ]
    return [(placement.x - half, placement.x + half) for placement, half in zip(placements, halves, strict=True)]


@pytest.mark.parametrize(("people", "aspect"), [(1, 1.0), (2, 1.1), (2, 1.67), (3, 1.65), (3, 2.5)])
def test_heads_are_within_the_image_and_no_eyes_are_covered(people: int, aspect: float) -> None:
    random = np.random.default_rng(people)
    for _ in range(200):
        reaches = random.uniform(NARROWEST, WIDEST, people).tolist()
        placements = arrange_people(reaches, aspect, 1.0, random)
        assert min(placement.zoom for placement in placements) >= MIN_ZOOM
        heads, middles = spans(placements, reaches), spans(placements, [VISIBLE_FACE_HALF_WIDTH] * people)
        assert heads[0][0] > -aspect / 2
        assert heads[-1][1] < aspect / 2
        for left, right in pairwise(range(people)):
            left_is_behind = placements[left].zoom < placements[right].zoom
            hidden_from = heads[right][0] if left_is_behind else heads[left][1]
            seen_to = middles[left][1] if left_is_behind else middles[right][0]
            assert (hidden_from - seen_to) * (1 if left_is_behind else -1) > -1e-6


def test_some_people_touch_and_others_are_apart() -> None:
    random = np.random.default_rng(0)
    free = []
    for _ in range(300):
        placements = arrange_people([0.8, 0.8], 1.67, 1.0, random)
        heads = spans(placements, [0.8, 0.8])
        free.append(heads[1][0] - heads[0][1])
    assert 0.25 < np.mean(np.array(free) < 0) < 0.6, "heads overlap"
    assert np.mean(np.array(free) > 0.15) > 0.15


def test_narrow_images_reduce_the_zoom_down_to_a_limit() -> None:
    near = [arrange_people([0.8, 0.8], aspect, 1.5, np.random.default_rng(1))[0].zoom for aspect in (3.0, 1.67, 1.1)]
    assert near == sorted(near, reverse=True)
    assert near[0] > 1.2
    with raises_input_error(ErrorCode.out_of_range, "size", 1.0):
        arrange_people([1.0] * 3, 1.0, 1.0, np.random.default_rng(1))


def test_the_camera_matches_the_placement() -> None:
    camera = PersonPlacement(0.25, 0.05, 1.2).camera(100, 200, (0.02, -0.01))
    plain = PersonPlacement(0.0, 0.0, 1.2).camera(100, 200)
    assert camera.scale == plain.scale == pytest.approx(1.2 * 100 / PORTRAIT_HEIGHT_UNITS)
    assert camera.column - plain.column == pytest.approx(27)
    assert camera.row - plain.row == pytest.approx(4)

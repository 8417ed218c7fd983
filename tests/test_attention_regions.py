"""Regions: the released labels, and tracked boxes, independent of the order of the people."""

import pytest
import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention, expand_boxes, regions_from_boxes, regions_from_masks
from fantasytalking.common.errors import ErrorCode
from fantasytalking.latent_geometry import WAN21_GEOMETRY as GRID
from tests.helpers.errors import raises_input_error

LEFT, RIGHT = [8.0, 16.0, 40.0, 48.0], [56.0, 16.0, 88.0, 48.0]


def still(*boxes: list[float], frames: int = 9) -> Tensor:
    return torch.tensor(boxes)[:, None].repeat(1, frames, 1)


def test_labels_are_max_pooled_and_background_attends_to_everyone():
    masks = torch.zeros(2, 32, 64)
    masks[0, :16, :32] = 1
    masks[1, 3, 31] = 1  # one pixel of the second person takes the token
    regions = regions_from_masks(masks, 9, GRID)
    assert regions.shape == (2, 3, 2, 4)
    assert regions[0, 0].tolist() == [[True, False, True, True], [True] * 4]
    assert regions[1, 2].tolist() == [[False, True, True, True], [True] * 4]
    assert not regions_from_masks(masks, 9, GRID, BackgroundAttention.nobody)[:, :, 1].any()


def test_without_the_mask_everything_attends_to_everyone():
    assert regions_from_masks(torch.zeros(2, 32, 64), 9, GRID, BackgroundAttention.no_mask).all()
    assert regions_from_boxes(still(LEFT, RIGHT), 64, 96, GRID, BackgroundAttention.no_mask).all()
    assert not regions_from_boxes(still(LEFT, RIGHT), 64, 96, GRID).all()


def test_boxes_and_labels_agree_where_people_are_apart():
    masks = torch.zeros(2, 64, 96)
    masks[0, 16:48, 8:40] = masks[1, 16:48, 56:88] = 1
    assert torch.equal(regions_from_boxes(still(LEFT, RIGHT), 64, 96, GRID), regions_from_masks(masks, 9, GRID))


@pytest.mark.parametrize("background", BackgroundAttention)
def test_the_order_of_people_has_no_effect(background):
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(3, 17, 2, generator=generator) * 60  # they overlap often
    boxes = torch.cat([start, start + 20 + 40 * torch.rand(3, 17, 2, generator=generator)], dim=-1)
    regions = regions_from_boxes(boxes, 96, 112, GRID, background)
    order = torch.tensor([1, 2, 0])
    assert torch.equal(regions_from_boxes(boxes[order], 96, 112, GRID, background), regions[order])
    if background is BackgroundAttention.nobody:
        assert (regions.sum(dim=0) <= 1).all(), "nobody shares a token but by an exact tie"
        assert regions.any(dim=(1, 2, 3)).all()


def test_boxes_are_followed_and_missing_faces_have_no_region():
    boxes = still(LEFT, RIGHT)
    boxes[0, 5:] += torch.tensor([0.0, 16.0, 0.0, 16.0])  # frames 5 to 8: latent frame 2
    boxes[1, 5:] = torch.nan
    regions = regions_from_boxes(boxes, 80, 96, GRID, BackgroundAttention.nobody)
    assert regions[0].any(dim=-1).tolist() == [
        [False, True, True, False, False],
        [False, True, True, False, False],
        [False, False, True, True, False],
    ]
    assert regions[1].any(dim=(1, 2)).tolist() == [True, True, False]


def test_touching_faces_are_separated_by_coverage():
    regions = regions_from_boxes(
        still([0.0, 0.0, 24.0, 16.0], [22.0, 0.0, 64.0, 16.0]), 16, 64, GRID, BackgroundAttention.nobody
    )
    assert regions[:, 0, 0].tolist() == [[True, False, False, False], [False, True, True, True]]
    same = regions_from_boxes(
        still([0.0, 0.0, 32.0, 16.0], [0.0, 0.0, 32.0, 16.0]), 16, 32, GRID, BackgroundAttention.nobody
    )
    assert same.all(), "equal boxes share their tokens"


def test_boxes_grow_by_the_driving_movement_to_a_quarter_at_most():
    driver = still([10.0, 10.0, 30.0, 50.0], [0.0, 0.0, 10.0, 10.0], frames=5)
    driver[0, 2] += torch.tensor([-2.0, 0.0, -2.0, 0.0])  # a tenth of its width to the left
    driver[0, 3] += torch.tensor([0.0, 40.0, 0.0, 40.0])  # a whole height down
    driver[1, 3:] = torch.nan
    widened = expand_boxes(torch.tensor([[100.0, 100.0, 200.0, 200.0], RIGHT]), driver)
    assert widened.tolist() == [[90.0, 100.0, 200.0, 225.0], RIGHT]


@pytest.mark.parametrize(
    ("call", "code", "field", "value"),
    [
        (
            lambda: regions_from_masks(torch.zeros(2, 30, 64), 9, GRID),
            ErrorCode.shape_mismatch,
            "masks",
            (2, 30, 64),
        ),
        (
            lambda: regions_from_masks(torch.zeros(2, 32, 64), 8, GRID),
            ErrorCode.out_of_range,
            "num_frames",
            8,
        ),
        (lambda: regions_from_boxes(still(LEFT)[0], 64, 96, GRID), ErrorCode.shape_mismatch, "boxes", (9, 4)),
        (
            lambda: regions_from_boxes(still(LEFT), 60, 96, GRID),
            ErrorCode.out_of_range,
            "image size",
            (96, 60),
        ),
        (
            lambda: regions_from_boxes(still([40.0, 16.0, 8.0, 48.0]), 64, 96, GRID),
            ErrorCode.out_of_range,
            "boxes",
            None,
        ),
    ],
)
def test_invalid_regions_are_rejected(call, code, field, value):
    with raises_input_error(code, field, value):
        call()

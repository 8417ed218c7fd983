"""Windows cover a video without a frame missing or doubled, and their weights ramp smoothly."""

from itertools import pairwise

import pytest
import torch

from fantasytalking.common.errors import ErrorCode
from fantasytalking.pipeline.sliding_window import plan_windows
from tests.helpers.errors import raises_input_error


@pytest.mark.parametrize("length", [3, 5, 9, 21])
def test_every_frame_gets_weights_that_sum_to_one(length):
    for total in range(2, 120):
        for overlap in range(1, (length - 1) // 2 + 1):
            windows = plan_windows(total, length, overlap)
            weights = torch.zeros(total)
            for window in windows:
                assert len(window.frame_indices) == len(window.blend_weights) == min(length, total)
                assert window.frame_indices[0] == 0
                assert bool((window.frame_indices[1:].diff() == 1).all())
                weights.index_add_(0, window.frame_indices, window.blend_weights)
            torch.testing.assert_close(weights, torch.ones(total))


def test_one_window_when_it_fits():
    for total in (2, 8, 9):
        (window,) = plan_windows(total, 9, 3)
        assert window.frame_indices.tolist() == list(range(total))
        assert window.blend_weights.tolist() == [1.0] * total
    assert len(plan_windows(10, 9, 3)) == 2


def test_neighbours_share_at_least_the_overlap_and_hand_over_gradually():
    windows = plan_windows(30, 9, 4)
    for before, after in pairwise(windows):
        shared = sorted({*before.frame_indices.tolist()} & {*after.frame_indices.tolist()} - {0})
        assert len(shared) >= 4
        falling = [float(before.blend_weights[before.frame_indices == frame]) for frame in shared]
        rising = [float(after.blend_weights[after.frame_indices == frame]) for frame in shared]
        assert falling == sorted(falling, reverse=True) and rising == sorted(rising)
        assert rising[0] < 0.3, "right after the portrait a window counts little"


def test_frame_zero_is_the_first_window_s_alone():
    first, *others = plan_windows(40, 9, 3)
    assert first.blend_weights[0] == 1
    assert all(window.blend_weights[0] == 0 for window in others)


@pytest.mark.parametrize(("length", "overlap"), [(2, 1), (9, 0), (9, 5), (3, 2)])
def test_impossible_windows_are_refused(length, overlap):
    with raises_input_error(ErrorCode.out_of_range, "overlap_frames", overlap):
        plan_windows(40, length, overlap)

"""Audio windows: the released integers, the same seconds at every frame rate, padding at the end."""

import json

import pytest
import torch

from fantasytalking.audio_windows import (
    clip_level_window,
    cut_windows,
    latent_frame_times,
    released_frame_windows,
    released_token_ranges,
    timed_frame_windows,
    tokens_per_window,
)
from fantasytalking.common.errors import ErrorCode
from fantasytalking.latent_geometry import latent_frame_count
from tests.helpers.errors import raises_input_error


def token_numbers(count: int, batch: int = 1) -> torch.Tensor:
    """(B, T, 1) features that are their own position, from 1."""
    return torch.arange(1.0, count + 1)[None, :, None].repeat(batch, 1, 1)


def test_every_released_range_and_length(golden):
    cases = json.loads((golden / "official_audio_ranges.json").read_text())
    assert len(cases) >= 9
    for case in cases:
        ranges = released_token_ranges(case["audio_length"], case["num_frames"], 4)
        assert [list(pair) for pair in ranges] == case["ranges"]
        windows = released_frame_windows(token_numbers(case["audio_length"]), case["num_frames"], 4)
        assert windows.mask.sum(-1)[0].tolist() == case["lengths"]


def test_a_released_window_has_margins_of_four_and_pads_at_the_end():
    windows = released_frame_windows(token_numbers(173, batch=2), 81, 4)
    first, second, last = windows.tokens[0, 0, :, 0], windows.tokens[0, 1, :, 0], windows.tokens[1, -1, :, 0]
    assert first.tolist() == [1, 2, 3, 4, 5, 6] + [0] * 11
    assert second.tolist() == [*range(1, 15), 0, 0, 0]  # range 1..9, widened -3..13
    assert last.tolist() == [*range(160, 174), 0, 0, 0]
    assert torch.equal(windows.mask, windows.tokens[..., 0] > 0)


@pytest.mark.parametrize("fps", [12.5, 16, 23, 24, 25, 29.97, 30, 50, 60])
def test_windows_in_seconds_are_the_same_at_every_frame_rate(fps):
    num_frames = 81
    windows = timed_frame_windows(token_numbers(round(num_frames / fps * 50)), torch.arange(num_frames) / fps, 4)
    assert windows.tokens.shape == (1, 21, 17, 1)
    for latent_frame in range(4, 16):
        true_centre = (4 * latent_frame - 1) / fps  # frames 4k-3 .. 4k are shown from (4k-3)/fps to (4k+1)/fps
        heard = windows.tokens[0, latent_frame][windows.mask[0, latent_frame]] - 1
        assert abs(heard.mean() * 0.02 + 0.0125 - true_centre) <= 0.0100001


def test_windows_in_seconds_follow_variable_frame_times():
    times = torch.arange(17) / 25
    times[9:] += 1.0  # a second's pause
    windows = timed_frame_windows(token_numbers(100, batch=2), torch.stack([times, torch.arange(17) / 25]), 4)
    moved = windows.tokens[0, 3, 0, 0] - windows.tokens[1, 3, 0, 0]  # latent frame 3 = frames 9..12
    assert moved == 50
    assert torch.equal(windows.tokens[0, 1], windows.tokens[1, 1])


def test_latent_frame_times_are_the_middle_of_their_interval():
    times = latent_frame_times(torch.arange(9) / 10, 4)
    torch.testing.assert_close(times, torch.tensor([0.05, 0.3, 0.7], dtype=torch.float64))


def test_the_clip_window_contains_all_tokens():
    windows = clip_level_window(token_numbers(20, batch=2))
    assert windows.tokens.shape == (2, 1, 20, 1)
    assert windows.mask.all()


def test_windows_wholly_outside_are_all_padding():
    windows = cut_windows(token_numbers(5), torch.tensor([-9, 2, 30]), 4)
    assert windows.mask.sum(-1).tolist() == [[0, 3, 0]]
    assert windows.tokens[0, 1, :, 0].tolist() == [3, 4, 5, 0]


def test_audio_shorter_than_one_window_is_rejected_with_the_required_length():
    with raises_input_error(ErrorCode.out_of_range, "audio tokens", 20) as error:
        released_frame_windows(token_numbers(20), 81, 4)
    assert "at least 41 tokens" in str(error.value)
    with raises_input_error(ErrorCode.out_of_range, "audio tokens", 16) as error:
        timed_frame_windows(token_numbers(16), torch.arange(17) / 25, 4)
    assert "0.32 s" in str(error.value) and "0.34 s: 17 tokens" in str(error.value)
    with raises_input_error(ErrorCode.out_of_range, "audio tokens", 0):
        clip_level_window(token_numbers(0))
    with raises_input_error(ErrorCode.shape_mismatch, "audio features", (5, 768)):
        clip_level_window(torch.zeros(5, 768))


@pytest.mark.parametrize(
    ("num_frames", "hint"), [(80, "use 77 or 81"), (0, "use 1 or 5"), (2, "use 1 or 5"), (-3, "use")]
)
def test_frame_counts_other_than_one_plus_fours_are_rejected(num_frames, hint):
    with raises_input_error(ErrorCode.out_of_range, "num_frames", num_frames) as error:
        latent_frame_count(num_frames, 4)
    assert hint in str(error.value)
    with raises_input_error(ErrorCode.out_of_range, "num_frames", num_frames):
        released_token_ranges(100, num_frames, 4)


@pytest.mark.parametrize("times", [[0, 1, 2, 2, 3], [0, 1, 2, float("nan"), 4], [4, 3, 2, 1, 0]])
def test_frame_times_that_do_not_increase_are_rejected(times):
    with raises_input_error(ErrorCode.out_of_range, "frame_times"):
        timed_frame_windows(token_numbers(50), torch.tensor(times, dtype=torch.float64), 4)


def test_one_frame_has_no_duration():
    with raises_input_error(ErrorCode.out_of_range, "frame_times", 1):
        timed_frame_windows(token_numbers(50), torch.zeros(1), 4)


@pytest.mark.parametrize(("span", "length"), [(0.34, 17), (0.02, 1), (0.3, 15), (0.32, 17), (1.0, 51)])
def test_a_span_is_an_odd_number_of_tokens(span, length):
    assert tokens_per_window(span) == length


def test_window_spans_out_of_range_are_rejected():
    for span in (0.0, -1.0, 11.0):
        with raises_input_error(ErrorCode.out_of_range, "window_seconds", span):
            tokens_per_window(span)

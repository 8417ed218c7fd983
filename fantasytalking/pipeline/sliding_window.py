"""Sliding windows for videos longer than the model's window: overlapping, and blended at every denoising step.

Wan treats a clip as "the first frame is given, generate what follows". A window that started in the middle of a video
would break this: conditioned on the portrait as its first frame it would jump back to it, and without it it would drift
away. Every window is therefore the portrait's own latent frame (frame 0 of the video, at the same noise level) followed
by a stretch of the video. Each window has exactly the form of a training clip and sees the same portrait next to its
stretch, never a copy of a copy, so that identity and color cannot drift however long the video is. The causal VAE
agrees: frame 0 is one frame and every other latent frame a group of frames, in the window as in the video.

Right after the portrait a window leans towards the portrait's pose. There it overlaps with the previous window, whose
weight falls while its own rises, at every denoising step, so that both agree on one motion and no seam is left.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError


class LatentWindow(NamedTuple):
    """A part of the video that the model denoises at once."""

    frame_indices: Tensor
    """(L,) latent frames of the video: 0, then a stretch."""
    blend_weights: Tensor
    """(L,) float32 weight of this window in each of its frames; over all windows the weights of a frame sum to 1."""


def plan_windows(num_latent_frames: int, window_length: int, overlap: int) -> list[LatentWindow]:
    """Returns windows of equal length that cover a video; a single window where the video fits into one.

    Args:
        num_latent_frames: F of the whole video.
        window_length: latent frames of a window, frame 0 included.
        overlap: latent frames that neighbours share at least (frame 0 not counted).

    Raises:
        InputError: the window is too short, or the overlap is more than half a window.
    """
    check_window_overlap(window_length, overlap)
    if num_latent_frames <= window_length:
        return [LatentWindow(torch.arange(num_latent_frames), torch.ones(num_latent_frames))]
    stretch = window_length - 1
    count = 1 + math.ceil((num_latent_frames - 1 - stretch) / (stretch - overlap))
    starts = [1 + round(number * (num_latent_frames - window_length) / (count - 1)) for number in range(count)]
    raw = torch.zeros(count, num_latent_frames)
    for number, start in enumerate(starts):
        left = torch.arange(1, stretch + 1) if number > 0 else torch.full((stretch,), overlap + 1)
        right = torch.arange(stretch, 0, -1) if number < count - 1 else torch.full((stretch,), overlap + 1)
        raw[number, start : start + stretch] = torch.minimum(left, right).clamp_max(overlap + 1).float()
    raw[0, 0] = 1
    share = raw / raw.sum(dim=0)
    windows = []
    for number, start in enumerate(starts):
        frames = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(start, start + stretch)])
        windows.append(LatentWindow(frames, share[number, frames]))
    return windows


def check_window_overlap(window_length: int, overlap: int) -> None:
    """Checks that windows have at least 3 latent frames and share at most half of them.

    Raises:
        InputError: they do not.
    """
    highest = (window_length - 1) // 2
    if window_length < 3 or not 1 <= overlap <= highest:
        raise InputError(
            f"the overlap is {overlap} latent frames of a window of {window_length}; windows must have 3 or more, and "
            f"the overlap must be 1 to {max(1, highest)}: change overlap_frames or window_frames",
            code=ErrorCode.out_of_range,
            field="overlap_frames",
            value=overlap,
        )


def latent_window_sizes(window_frames: int, overlap_frames: int, temporal_stride: int) -> tuple[int, int]:
    """Returns the latent frames of a window and of an overlap, given their frames.

    Args:
        temporal_stride: frames per latent frame; the first latent frame holds one frame.

    Raises:
        InputError: a number of frames is not a whole number of latent frames, or too small.
    """
    lowest = 1 + 2 * temporal_stride
    if window_frames < lowest or (window_frames - 1) % temporal_stride:
        raise InputError(
            f"window_frames is {window_frames}; it must be 1 + {temporal_stride}k and at least {lowest}",
            code=ErrorCode.out_of_range,
            field="window_frames",
            value=window_frames,
        )
    if overlap_frames < temporal_stride or overlap_frames % temporal_stride:
        raise InputError(
            f"overlap_frames is {overlap_frames}; it must be a multiple of {temporal_stride}, at least "
            f"{temporal_stride}",
            code=ErrorCode.out_of_range,
            field="overlap_frames",
            value=overlap_frames,
        )
    return 1 + (window_frames - 1) // temporal_stride, overlap_frames // temporal_stride

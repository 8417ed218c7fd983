"""Videos longer than the model's window: overlapping windows over one strip of latents, fused at every step.

Wan reads a clip as "the given picture, then what follows". A window that began in the middle of a video would break
this: told that its first frame is the portrait, it would jump back to it; told nothing, it would drift from it. So
every window is the portrait's own latent frame (frame 0 of the video, at the same noise level) followed by a stretch of
the video. Each window therefore has exactly the form of a training clip and sees the same portrait beside its stretch,
never a copy of a copy: identity and colour cannot drift, however long the video is. The causal VAE agrees: frame 0 is
one frame, all others are groups of four, in the window as in the video.

Right after the portrait a window leans towards the portrait's pose. There it overlaps with the window before, whose
weight falls while its own rises, at every denoising step, so that both agree on one motion and no seam is left.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.common.errors import InputError


class LatentWindow(NamedTuple):
    """A part of the video that the model denoises at once."""

    frame_indices: Tensor
    """(L,) latent frames of the video: 0, then a stretch."""
    blend_weights: Tensor
    """(L,) float32 share of this window in what becomes of each of its frames; over all windows they sum to 1."""


def plan_windows(num_latent_frames: int, window_length: int, overlap: int) -> list[LatentWindow]:
    """Windows of equal length over a video; one window when it fits in one.

    Args:
        num_latent_frames: F of the whole video.
        window_length: latent frames of a window, frame 0 included.
        overlap: latent frames that neighbours share at least (frame 0 not counted).

    Raises:
        InputError: no window is that short, or the overlap is more than half of a window.
    """
    if window_length < 3 or not 1 <= overlap <= (window_length - 1) // 2:
        raise InputError(
            f"windows of {window_length} latent frames that overlap by {overlap}: a window must have 3 or more (9 "
            "frames) "
            f"and the overlap 1 to {max(1, (window_length - 1) // 2)} (4 frames each)"
        )
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


def latent_window_sizes(window_frames: int, overlap_frames: int, temporal_stride: int) -> tuple[int, int]:
    """Latent frames of a window and of an overlap, from frames.

    Args:
        temporal_stride: frames of a latent frame, the first excepted.

    Raises:
        InputError: numbers that are no whole latent frames, or too small.
    """
    if window_frames < 1 + 2 * temporal_stride or (window_frames - 1) % temporal_stride:
        raise InputError(
            f"window_frames is {window_frames}; it must be 1 + {temporal_stride}k and at least "
            f"{1 + 2 * temporal_stride}"
        )
    if overlap_frames < temporal_stride or overlap_frames % temporal_stride:
        raise InputError(
            f"overlap_frames is {overlap_frames}; it must be a multiple of {temporal_stride}, at least "
            f"{temporal_stride}"
        )
    return 1 + (window_frames - 1) // temporal_stride, overlap_frames // temporal_stride

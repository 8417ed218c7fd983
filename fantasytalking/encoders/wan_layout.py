"""How Wan wants text and given frames laid out: what a training step needs of the encoders, without their libraries."""

import torch
from torch import Tensor


def first_frame_mask(latents: Tensor, temporal_stride: int = 4) -> Tensor:
    """Wan's mask of given frames (B, temporal_stride, F, h, w) for `latents` (B, C, F, h, w): only frame 0 is given.

    Frame 0 counts `temporal_stride` times, so that all channels of latent frame 0 are 1.
    """
    batch, _, frames, height, width = latents.shape
    mask = latents.new_zeros(batch, temporal_stride, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def pad_text(states: Tensor, length: int) -> Tensor:
    """`states` (T, D) followed by zeros: (length, D), as Wan was trained; longer ones are cut to `length`."""
    states = states[:length]
    return torch.cat([states, states.new_zeros(length - states.shape[0], states.shape[1])])

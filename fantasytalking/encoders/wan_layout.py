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


def pad_prompt_embeds(prompt_embeds: Tensor, length: int) -> Tensor:
    """`prompt_embeds` (T, D) followed by zeros: (length, D), as Wan was trained; longer ones are cut to `length`."""
    prompt_embeds = prompt_embeds[:length]
    return torch.cat([prompt_embeds, prompt_embeds.new_zeros(length - prompt_embeds.shape[0], prompt_embeds.shape[1])])

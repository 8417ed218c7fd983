"""Lays out prompts and first frames as Wan expects them; a training step needs no encoder library for it."""

import torch
from torch import Tensor

from fantasytalking.models.image_conditioning import ImageConditioning


def first_frame_mask(latents: Tensor, temporal_stride: int) -> Tensor:
    """Returns Wan's mask (B, temporal_stride, F, h, w) of known frames for `latents` (B, C, F, h, w).

    Only frame 0 is known. It counts `temporal_stride` times, so that all channels of latent frame 0 are 1.
    """
    batch, _, frames, height, width = latents.shape
    mask = latents.new_zeros(batch, temporal_stride, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def lay_out_image_latents(first_frame_latents: Tensor, conditioning: ImageConditioning, temporal_stride: int) -> Tensor:
    """Returns `Conditions.image_latents` of the latents (B, Z, F, h, w) of the video [image, 0, 0, ...].

    Latent frame 0 of that video is the image's own latent, since the VAE is causal.
    """
    if conditioning is ImageConditioning.first_frame_replace:
        return first_frame_latents[:, :, :1]
    return torch.cat([first_frame_mask(first_frame_latents, temporal_stride), first_frame_latents], dim=1)


def pad_prompt_embeds(prompt_embeds: Tensor, length: int) -> Tensor:
    """Pads `prompt_embeds` (T, D) with zeros to (length, D), as in Wan's training; longer ones are truncated."""
    prompt_embeds = prompt_embeds[:length]
    return torch.cat([prompt_embeds, prompt_embeds.new_zeros(length - prompt_embeds.shape[0], prompt_embeds.shape[1])])

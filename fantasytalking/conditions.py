"""Everything the transformer is told beside the noisy latents, as one typed object.

Axes: B batch, F latent frames, H and W latent height and width, L audio tokens in a window, N face crops.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fantasytalking.errors import InputError


class Conditions(NamedTuple):
    """The conditions of one batch. A NamedTuple, so that accelerate and DeepSpeed can walk it.

    The number of audio windows decides the level: one window for the whole clip (stage 1) or one for every latent
    frame (stage 2 and inference), paper section 3.1.
    """

    text: Tensor
    """(B, T, D_text) umT5 states; Wan pads to T = 512, shorter is allowed."""
    image: Tensor | None
    """(B, I, D_clip) CLIP states of the portrait (I = 257 for Wan); None for a base without image cross-attention."""
    latents: Tensor
    """(B, 20, F, H, W) first-frame mask (4 channels) and first-frame latents (16), concatenated to the noisy ones."""
    audio: Tensor
    """(B, 1 or F, L, D_audio) wav2vec2 features cut into windows."""
    audio_mask: Tensor
    """(B, 1 or F, L) bool, True where the token is real. What stands in the others never matters."""
    face: Tensor
    """(B, N, 512) ArcFace embeddings of the portrait."""
    motion: Tensor
    """(B, 2) expression and body intensity in [0, 1]."""
    gate: Tensor
    """(B, 2) weight of audio and of face; 0 = dropped, 1 = as trained."""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> "Conditions":
        """Moves every tensor to `device` and every floating-point tensor to `dtype`; offloading hooks call it too."""
        moved = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None, non_blocking=non_blocking)
            for name, value in self._asdict().items()
            if value is not None
        }
        return self._replace(**moved)


def latent_frame_count(num_frames: int, temporal_stride: int = 4) -> int:
    """Latent frames of a video of `num_frames` frames: frame 0, then one for every 4 (Wan's causal VAE).

    Raises:
        InputError: `num_frames` is not 1 + 4k.
    """
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        below = max(1, num_frames - (num_frames - 1) % temporal_stride)
        raise InputError(
            f"num_frames is {num_frames}; the causal VAE takes 1 + {temporal_stride}k frames; "
            f"use {below} or {below + temporal_stride}"
        )
    return (num_frames - 1) // temporal_stride + 1

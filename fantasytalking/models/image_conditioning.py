"""How a Wan base receives the image that a video starts with: as input channels, or as latent frame 0 itself.

Axes: B batch, F latent frames, Z latent channels, H and W latent height and width, S video tokens, s temporal stride.
"""

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor


class ImageConditioning(Enum):
    """Strategy of a base, which its numbers of channels determine."""

    channel_concat = "channel_concat"
    """Mask (s channels) and latents of the video [image, 0, 0, ...] are further input channels, (B, s + Z, F, H, W):
    Wan 2.1 and Wan2.2-I2V-A14B."""
    first_frame_replace = "first_frame_replace"
    """The image's latents (B, Z, 1, H, W) are latent frame 0, at timestep 0; each token has a timestep of its own:
    Wan2.2-TI2V-5B (`expand_timesteps` in diffusers)."""

    @classmethod
    def from_channels(cls, in_channels: int, out_channels: int) -> "ImageConditioning":
        """Returns the strategy of a transformer; with as many input as output channels, none is left for the image."""
        return cls.first_frame_replace if in_channels == out_channels else cls.channel_concat

    @property
    def num_given_frames(self) -> int:
        """Latent frames at the start of a clip that are given, not predicted: their predictions have no meaning."""
        return 1 if self is ImageConditioning.first_frame_replace else 0

    def image_latents_shape(
        self, in_channels: int, out_channels: int, latent_shape: Sequence[int]
    ) -> tuple[int, int, int, int]:
        """Returns the shape of `Conditions.image_latents` without its batch.

        Args:
            in_channels, out_channels: of the transformer.
            latent_shape: F, H, W.
        """
        frames, height, width = latent_shape
        if self is ImageConditioning.first_frame_replace:
            return out_channels, 1, height, width
        return in_channels - out_channels, frames, height, width

    def model_input(self, latents: Tensor, image_latents: Tensor) -> Tensor:
        """Returns what the patches are embedded from, (B, in_channels, F, H, W).

        Args:
            latents: (B, Z, F, H, W) noisy latents.
            image_latents: as in `Conditions`, of the same batch or of batch 1.
        """
        image_latents = image_latents.expand(latents.shape[0], -1, -1, -1, -1)
        if self is ImageConditioning.first_frame_replace:
            return torch.cat([image_latents, latents[:, :, 1:]], dim=2)
        return torch.cat([latents, image_latents], dim=1)

    def model_timestep(self, timestep: Tensor, num_tokens: int, num_frames: int) -> Tensor:
        """Returns a timestep (B,) as the base reads it: (B,), or (B, S) with 0 for the tokens of given frames."""
        if not self.num_given_frames:
            return timestep
        is_predicted = torch.arange(num_tokens, device=timestep.device) >= num_tokens // num_frames
        return timestep[:, None] * is_predicted.float()

    def with_image(self, latents: Tensor, image_latents: Tensor) -> Tensor:
        """Returns denoised latents (B, Z, F, H, W) with the given frames in place of their predictions."""
        if not self.num_given_frames:
            return latents
        return self.model_input(latents, image_latents.to(latents))

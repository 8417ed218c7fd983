"""Geometry of a video in pixels, in the latents of its VAE and in the tokens of its transformer.

Every size follows from the configurations of the VAE and of the transformer; no other module knows a stride.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError


@dataclass(frozen=True)
class LatentGeometry:
    """Strides of a causal video VAE and the patch of the transformer that denoises its latents."""

    spatial_stride: int
    """Pixels per latent cell, in height and in width (Wan 2.1: 8; Wan 2.2 TI2V-5B: 16)."""
    temporal_stride: int
    """Frames per latent frame; the first latent frame holds one frame (Wan: 4)."""
    patch_size: int = 2
    """Latent cells per video token, in height and in width. A token spans one latent frame."""

    @classmethod
    def from_configs(cls, vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> "LatentGeometry":
        """Reads the configurations of diffusers' AutoencoderKLWan and WanTransformer3DModel.

        Raises:
            InputError: a stride or a side of the patch is out of range, or the transformer's patches span several
                latent frames, or are not square.
        """
        for name in ("scale_factor_spatial", "scale_factor_temporal"):
            check_stride(vae[name], name, "the VAE's configuration")
        patch_size = transformer["patch_size"]
        if not isinstance(patch_size, list | tuple) or len(patch_size) != 3:
            raise InputError(
                f"the transformer's patch_size is {str(patch_size)[:40]}; three numbers are needed: frames, height and "
                "width",
                code=ErrorCode.malformed_file,
                field="patch_size",
                value=patch_size,
            )
        for side in patch_size:
            check_stride(side, "patch_size", "the transformer's configuration")
        frames, height, width = patch_size
        if frames != 1 or height != width:
            raise InputError(
                f"the transformer's patch_size is {(frames, height, width)}; only patches of one latent frame, as high "
                "as wide, are supported",
                code=ErrorCode.unsupported,
                field="patch_size",
                value=(frames, height, width),
            )
        return cls(int(vae["scale_factor_spatial"]), int(vae["scale_factor_temporal"]), int(height))

    @property
    def token_pixels(self) -> int:
        """Side of a video token in pixels: widths and heights of videos are multiples of it."""
        return self.spatial_stride * self.patch_size

    def latent_frames(self, num_frames: int, field: str = "num_frames") -> int:
        """Returns the number of latent frames of a video.

        Args:
            field: configuration key or argument that states `num_frames`.

        Raises:
            InputError: `num_frames` is not 1 + `temporal_stride` k.
        """
        return latent_frame_count(num_frames, self.temporal_stride, field)

    def check_size(self, height: int, width: int, field: str, text: str) -> None:
        """Checks that a video has whole tokens.

        Args:
            height, width: in pixels.
            field: configuration key, option or argument that states the size.
            text: the size as the user gave it.

        Raises:
            InputError: a side is not a multiple of a token's.
        """
        if height % self.token_pixels or width % self.token_pixels:
            raise InputError(
                f"{field} contains {text}; width and height must be multiples of {self.token_pixels} pixels with this "
                "model",
                code=ErrorCode.out_of_range,
                field=field,
                value=text,
            )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Returns latent frames, height and width of a video of `height` x `width` pixels."""
        return self.latent_frames(num_frames), height // self.spatial_stride, width // self.spatial_stride

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Returns the number of tokens along frames, height and width of a video of `height` x `width` pixels."""
        return self.latent_frames(num_frames), height // self.token_pixels, width // self.token_pixels


MAX_STRIDE = 64
"""Largest stride of a VAE and side of a patch; Wan's are 16 and 2 at most."""


def check_stride(value: Any, name: str, source: str) -> None:
    """Validates a stride of a VAE or a side of a patch.

    Raises:
        InputError: it is not from 1 to `MAX_STRIDE`.
    """
    if type(value) is not int or not 1 <= value <= MAX_STRIDE:
        raise InputError(
            f"{source}: {name} is {str(value)[:40]}; it must be 1 to {MAX_STRIDE}: get the folder again",
            code=ErrorCode.malformed_file,
            field=name,
            value=value,
        )


WAN21_GEOMETRY = LatentGeometry(spatial_stride=8, temporal_stride=4)
"""Of Wan 2.1, on which the released weights of FantasyTalking and FantasyPortrait were trained."""


def latent_frame_count(num_frames: int, temporal_stride: int, field: str = "num_frames") -> int:
    """Returns the number of latent frames of a video: one for frame 0, then one per `temporal_stride` frames.

    Args:
        field: configuration key or argument that states `num_frames`.

    Raises:
        InputError: `num_frames` is not 1 + `temporal_stride` k.
    """
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        below = max(1, num_frames - (num_frames - 1) % temporal_stride)
        raise InputError(
            f"{field} is {num_frames}; the causal VAE takes 1 + {temporal_stride}k frames; "
            f"use {below} or {below + temporal_stride}",
            code=ErrorCode.out_of_range,
            field=field,
            value=num_frames,
        )
    return (num_frames - 1) // temporal_stride + 1


def video_frame_count(latent_frames: int, temporal_stride: int) -> int:
    """Returns the number of video frames of `latent_frames` latent frames."""
    return 1 + temporal_stride * (latent_frames - 1)

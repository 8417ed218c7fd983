"""Decodes latents to frames, a few at a time.

Axes: C latent channels, F latent frames, h and w latent height and width, T frames, H and W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.wan import VideoAutoencoder

OUTPUT_TYPES = ("np", "pil", "pt", "latent")


@dataclass
class FantasyTalkingOutput(BaseOutput):
    """A video."""

    frames: Any
    """np: (1, T, H, W, 3) float32 in [0, 1]; pt: (1, T, 3, H, W) of the same; pil: a list of one list of images;
    latent: (1, C, F, h, w) normalized latents, whose frames `iterate_frames` decodes one by one."""
    num_frames: int
    """T: the duration of the longest audio, rounded to the nearest frame, or that of the shortest driving video."""
    fps: float


def check_output_type(output_type: str) -> None:
    """Checks that `output_type` is one of `OUTPUT_TYPES`.

    Raises:
        InputError: it is not.
    """
    if output_type not in OUTPUT_TYPES:
        raise InputError(
            f"output_type is '{output_type}'; it must be one of {', '.join(OUTPUT_TYPES)}",
            code=ErrorCode.invalid_choice,
            field="output_type",
            value=output_type,
        )


def decode_latents(
    vae: VideoAutoencoder, latents: Tensor, num_frames: int, progress_bar: Callable[..., tqdm]
) -> Iterator[NDArray[np.uint8]]:
    """Yields the first `num_frames` frames (H, W, 3) uint8 RGB of latents (1, C, F, h, w), decoded on demand.

    Args:
        progress_bar: returns a progress bar for `total` frames.
    """
    for chunk in _decode_chunks(vae, latents, num_frames, progress_bar):
        yield from rearrange((chunk * 255).round().to(torch.uint8), "c t h w -> t h w c").cpu().numpy()


def decode_output(
    vae: VideoAutoencoder, latents: Tensor, num_frames: int, output_type: str, progress_bar: Callable[..., tqdm]
) -> Any:
    """Returns latents (1, C, F, h, w) as one of `OUTPUT_TYPES`: see `FantasyTalkingOutput`."""
    if output_type == "latent":
        return latents
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in decode_latents(vae, latents, num_frames, progress_bar)]]
    video = torch.cat([chunk.cpu() for chunk in _decode_chunks(vae, latents, num_frames, progress_bar)], dim=1)
    if output_type == "pt":
        return rearrange(video, "c t h w -> 1 t c h w")
    return rearrange(video, "c t h w -> 1 t h w c").numpy()


def _decode_chunks(
    vae: VideoAutoencoder, latents: Tensor, num_frames: int, progress_bar: Callable[..., tqdm]
) -> Iterator[Tensor]:
    """(3, t, H, W) pieces in [0, 1], `num_frames` frames in all."""
    left = num_frames
    with progress_bar(total=num_frames) as bar:
        bar.set_description("decode")
        for chunk in vae.iter_decode(latents):
            chunk = ((chunk + 1) / 2)[:, :left]
            left -= chunk.shape[1]
            bar.update(chunk.shape[1])
            yield chunk
            if not left:
                return

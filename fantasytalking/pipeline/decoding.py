"""Latents to pictures, a few frames at a time.

Axes: F latent frames, h and w latent height and width, T frames, H and W pixels.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.wan import VideoAutoencoder

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

OUTPUT_TYPES = ("np", "pil", "pt", "latent")


def check_output_type(output_type: str) -> None:
    """Holds that it is one of `OUTPUT_TYPES`.

    Raises:
        InputError: it is none.
    """
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is '{output_type}'; it must be one of {', '.join(OUTPUT_TYPES)}")


def decode_frames(pipe: "FantasyTalkingPipeline", latents: Tensor, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """The first `num_frames` pictures (H, W, 3) uint8 RGB of (1, 16, F, h, w), decoded as they are asked for."""
    for chunk in _decode_chunks(pipe, latents, num_frames):
        yield from rearrange((chunk * 255).round().to(torch.uint8), "c t h w -> t h w c").cpu().numpy()


def decode_output(pipe: "FantasyTalkingPipeline", latents: Tensor, num_frames: int, output_type: str) -> Any:
    """(1, 16, F, h, w) as one of `OUTPUT_TYPES`: see `fantasytalking.pipeline.FantasyTalkingOutput`."""
    if output_type == "latent":
        return latents
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in decode_frames(pipe, latents, num_frames)]]
    video = torch.cat([chunk.cpu() for chunk in _decode_chunks(pipe, latents, num_frames)], dim=1)
    if output_type == "pt":
        return rearrange(video, "c t h w -> 1 t c h w")
    return rearrange(video, "c t h w -> 1 t h w c").numpy()


def _decode_chunks(pipe: "FantasyTalkingPipeline", latents: Tensor, num_frames: int) -> Iterator[Tensor]:
    """(3, t, H, W) pieces in [0, 1], `num_frames` frames in all."""
    left = num_frames
    with pipe.progress_bar(total=num_frames) as bar:
        bar.set_description("decode")
        for chunk in VideoAutoencoder(pipe.vae).iter_decode(latents):
            chunk = ((chunk + 1) / 2)[:, :left]
            left -= chunk.shape[1]
            bar.update(chunk.shape[1])
            yield chunk
            if not left:
                return

"""Decodes a video in overlapping tiles, as diffusers' `AutoencoderKLWan.tiled_decode` does and equal to it bit for bit.

diffusers holds the decoded tiles of a whole video until the last one, on the device, and copies them three times more.
Here each tile goes into the video as it is decoded, in main memory; of earlier tiles only the edges are held.

Axes: Z latent channels, F latent frames, h and w latent height and width, C channels, T frames, H and W pixels, all
before patches are unfolded.
"""

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor


def decode_in_tiles(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Returns the video (1, C, T, H, W) of `latents` (1, Z, F, h, w) in main memory, neither unfolded nor clamped."""
    patch = vae.config["patch_size"] or 1
    strides = vae.tile_sample_stride_height // patch, vae.tile_sample_stride_width // patch
    overlap_height = vae.tile_sample_min_height // patch - strides[0]
    overlap_width = vae.tile_sample_min_width // patch - strides[1]
    height, width = (side * vae.spatial_compression_ratio // patch for side in latents.shape[3:])
    video: Tensor | None = None
    edges_above: dict[int, Tensor] = {}
    edge_left: Tensor | None = None
    for row, column, part in _tiles(vae, latents):
        tile = _decode_tile(vae, part)
        if row > 0:
            tile = vae.blend_v(edges_above[column], tile, overlap_height)
        if column > 0:
            assert edge_left is not None
            tile = vae.blend_h(edge_left, tile, overlap_width)
        edges_above[column] = tile[..., -overlap_height:, :].clone()
        edge_left = tile[..., -overlap_width:].clone()
        if video is None:
            video = torch.empty(*tile.shape[:3], height, width, dtype=tile.dtype)
        target = video[..., row * strides[0] :, column * strides[1] :][..., : strides[0], : strides[1]]
        target.copy_(tile[..., : target.shape[3], : target.shape[4]])
    assert video is not None, "a video has a tile"
    return video


def _tiles(vae: AutoencoderKLWan, latents: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yields row, column and latents of every tile."""
    ratio = vae.spatial_compression_ratio
    height, width = vae.tile_sample_min_height // ratio, vae.tile_sample_min_width // ratio
    step_down, step_right = vae.tile_sample_stride_height // ratio, vae.tile_sample_stride_width // ratio
    for row, top in enumerate(range(0, latents.shape[3], step_down)):
        for column, left in enumerate(range(0, latents.shape[4], step_right)):
            yield row, column, latents[..., top : top + height, left : left + width]


def _decode_tile(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    vae.clear_cache()
    frames = []
    for number in range(latents.shape[2]):
        vae._conv_idx = [0]
        frame = vae.post_quant_conv(latents[:, :, number : number + 1])
        frames.append(vae.decoder(frame, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=number == 0))
    vae.clear_cache()
    return torch.cat(frames, dim=2)

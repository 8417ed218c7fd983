"""Regions of several people on the grid of video tokens, from face masks or boxes.

Axes: P people, N video frames, F latent frames, H and W pixels, h and w video tokens of a latent frame.

A region contains the video tokens that attend to a person. `regions_from_masks` (released rule) computes regions from
ordered still pixel masks; `regions_from_boxes` (ours) from a box per frame, independent of the order of the people.
Tokens in no region are background, whose attention `BackgroundAttention` selects.
"""

from collections.abc import Callable
from enum import Enum

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import LatentGeometry

MAX_BOX_EXPANSION = 0.25
"""Largest expansion of a box per side, as a fraction of the face's size (released code)."""


class BackgroundAttention(Enum):
    """People to whom background tokens attend."""

    everyone = "everyone"
    """Background attends to all people, as released."""
    nobody = "nobody"
    """The condition adds nothing to background tokens."""
    no_mask = "no_mask"
    """All tokens attend to all people; the baseline that measures the effect of regions."""


def regions_from_masks(
    masks: Tensor,
    num_frames: int,
    geometry: LatentGeometry,
    background: BackgroundAttention = BackgroundAttention.everyone,
) -> Tensor:
    """Computes regions from still pixel masks by the released rule: each pixel has one label; labels are max-pooled.

    Where masks overlap, or a token contains pixels of several people, the token belongs to the later person.

    Args:
        masks: (P, H, W) bool or 0 and 1, the people from left to right; H and W multiples of a token's side.
        num_frames: number of video frames, 1 + a multiple of the temporal stride.
        geometry: of the latents and tokens.
        background: attention of the tokens in no mask.

    Returns:
        (P, F, h, w) bool.

    Raises:
        InputError: the masks have another shape, or the video has no whole number of latent frames.
    """
    side = geometry.token_pixels
    if masks.ndim != 3 or not masks.numel() or masks.shape[1] % side or masks.shape[2] % side:
        raise InputError(
            f"the face masks have shape {tuple(masks.shape)}; expected (people, height, width) in pixels, height and "
            f"width multiples of {side}",
            code=ErrorCode.shape_mismatch,
            field="masks",
            value=tuple(masks.shape),
        )
    numbers = torch.arange(1, masks.shape[0] + 1, device=masks.device, dtype=torch.float32)
    labels = ((masks != 0) * numbers[:, None, None]).amax(dim=0)
    labels = F.max_pool2d(labels[None], side)  # (1, h, w)
    owned = _with_background(labels == numbers[:, None, None], background)
    return owned[:, None].expand(-1, geometry.latent_frames(num_frames), -1, -1)


def regions_from_boxes(
    boxes: Tensor,
    height: int,
    width: int,
    geometry: LatentGeometry,
    background: BackgroundAttention = BackgroundAttention.everyone,
) -> Tensor:
    """Computes regions from tracked boxes: a token belongs to the person whose face covers most of it.

    A latent frame uses the boxes of all its frames. If two faces cover a token equally, it belongs to the one whose
    center is nearer, relative to its size; with equal distances both have it. The result does not depend on the order
    of the people. A NaN box means that the face is absent from the frame.

    Args:
        boxes: (P, N, 4) left, top, right, bottom in pixels, N = 1 + a multiple of the temporal stride; repeat one box
            for a still image.
        height, width: size of the image in pixels, multiples of a token's side.
        geometry: of the latents and tokens.
        background: attention of the tokens in no box.

    Returns:
        (P, F, h, w) bool.

    Raises:
        InputError: the boxes have another shape or are inverted, or the size is not a multiple of a token's side.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.shape[0]:
        raise InputError(
            f"the face boxes have shape {tuple(boxes.shape)}; expected (people, frames, 4)",
            code=ErrorCode.shape_mismatch,
            field="boxes",
            value=tuple(boxes.shape),
        )
    side = geometry.token_pixels
    if height < 1 or width < 1 or height % side or width % side:
        raise InputError(
            f"the image is {width}x{height}; width and height must be multiples of {side} pixels",
            code=ErrorCode.out_of_range,
            field="image size",
            value=(width, height),
        )
    if bool((boxes[..., 2:] <= boxes[..., :2]).any()):
        raise InputError(
            "a face box ends before it begins; expected left, top, right, bottom in pixels",
            code=ErrorCode.out_of_range,
            field="boxes",
        )
    geometry.latent_frames(boxes.shape[1])
    coverage, distance = (
        _by_latent_frame(values, geometry.temporal_stride, reduce)
        for values, reduce in zip(
            _coverage_and_distance(boxes.double(), height, width, side), (Tensor.amax, Tensor.amin), strict=True
        )
    )
    best = coverage >= coverage.amax(dim=0)
    distance = distance.masked_fill(~best, torch.inf)
    owned = best & (coverage > 0) & (distance <= distance.amin(dim=0))
    return _with_background(owned, background)


def expand_boxes(boxes: Tensor, driving_boxes: Tensor) -> Tensor:
    """Expands face boxes of a portrait by the movement of each driving face from its first frame (released code).

    Args:
        boxes: (P, 4) left, top, right, bottom in pixels of the portrait.
        driving_boxes: (P, N, 4) in pixels of the driving videos; NaN where a face is absent, never in the first frame.

    Returns:
        (P, 4), each side moved by at most a quarter of the face's size.
    """
    size = driving_boxes[:, 0, 2:] - driving_boxes[:, 0, :2]
    start = driving_boxes[:, :1]
    away = torch.cat([start[..., :2] - driving_boxes[..., :2], driving_boxes[..., 2:] - start[..., 2:]], dim=-1)
    furthest = away.nan_to_num(0.0).amax(dim=1) / size.repeat(1, 2)  # (P, 4), at least 0: the first frame's
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * furthest.clamp(max=MAX_BOX_EXPANSION)
    return torch.cat([boxes[:, :2] - side[:, :2], boxes[:, 2:] + side[:, 2:]], dim=1)


def _coverage_and_distance(boxes: Tensor, height: int, width: int, side: int) -> tuple[Tensor, Tensor]:
    """Covered fraction of each token of `side` pixels, and squared distance of the centers in box sizes: (P, N, h, w)
    each."""
    left, top, right, bottom = boxes[..., None].unbind(dim=2)  # (P, N, 1)
    columns = torch.arange(0, width, side, dtype=boxes.dtype, device=boxes.device)
    rows = torch.arange(0, height, side, dtype=boxes.dtype, device=boxes.device)

    def covered(tokens: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return ((high.minimum(tokens + side) - low.maximum(tokens)) / side).clamp(min=0)

    def away(tokens: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (tokens + side / 2 - (low + high) / 2) / (high - low)

    coverage = covered(rows, top, bottom)[..., None] * covered(columns, left, right)[..., None, :]
    distance = away(rows, top, bottom)[..., None] ** 2 + away(columns, left, right)[..., None, :] ** 2
    return coverage.nan_to_num(0.0), distance.nan_to_num(torch.inf)


def _by_latent_frame(values: Tensor, temporal_stride: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduces (P, N, h, w) to (P, F, h, w): frame 0 by itself, then groups of `temporal_stride` frames."""
    groups = rearrange(values[:, 1:], "p (f t) h w -> p f t h w", t=temporal_stride)
    return torch.cat([values[:, :1], reduce(groups, dim=2)], dim=1)


def _with_background(owned: Tensor, background: BackgroundAttention) -> Tensor:
    """Assigns background tokens to people as `background` selects: (P, ...) bool -> same."""
    if background is BackgroundAttention.no_mask:
        return torch.ones_like(owned)
    return owned if background is BackgroundAttention.nobody else owned | ~owned.any(dim=0)

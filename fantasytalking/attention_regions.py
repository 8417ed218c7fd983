"""Which video tokens are whose: regions of several people on the grid of the transformer's tokens.

Axes: P people, N video frames, F latent frames, H and W pixels, h and w video tokens (H/16, W/16).

A region says for every person which video tokens attend to them. Two rules make them: `regions_from_masks`, the
released one, from still pixel masks in an order; and `regions_from_boxes`, ours, from a box for every frame, in which
the order of the people means nothing. What is nobody's is background, and `BackgroundAttention` says to whom it
attends.
"""

from enum import Enum

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from fantasytalking.common.errors import InputError
from fantasytalking.conditions import latent_frame_count

TOKEN_PIXELS = 16
"""Pixels of a video token's side: the VAE's 8 times the transformer's patch of 2."""
MAX_BOX_EXPANSION = 0.25
"""Of the face's size: the most that a box is widened on a side by its driver's movement (released code)."""


class BackgroundAttention(Enum):
    """To whom video tokens attend that are in nobody's region."""

    everyone = "everyone"
    """As released."""
    nobody = "nobody"
    """The condition adds nothing there."""
    no_mask = "no_mask"
    """Faces attend to everyone too: what the mask is worth is measured against this."""


def regions_from_masks(
    masks: Tensor, num_frames: int, background: BackgroundAttention = BackgroundAttention.everyone
) -> Tensor:
    """Regions of still pixel masks by the released rule: every pixel has one label, and labels are max-pooled.

    Where masks overlap, or one token has pixels of several people, the later person has it, so the order counts.

    Args:
        masks: (P, H, W) bool or 0 and 1, the people from left to right; H and W multiples of 16.
        num_frames: frames of the video, 1 + 4k.

    Returns:
        (P, F, h, w) bool.

    Raises:
        InputError: masks of another shape, or a wrong number of frames.
    """
    if masks.ndim != 3 or not masks.numel() or masks.shape[1] % TOKEN_PIXELS or masks.shape[2] % TOKEN_PIXELS:
        raise InputError(
            f"face regions have the shape {tuple(masks.shape)}; (people, height, width) in pixels is needed, "
            f"height and width multiples of {TOKEN_PIXELS}"
        )
    numbers = torch.arange(1, masks.shape[0] + 1, device=masks.device, dtype=torch.float32)
    labels = ((masks != 0) * numbers[:, None, None]).amax(dim=0)
    labels = F.max_pool2d(labels[None], TOKEN_PIXELS)  # (1, h, w)
    owned = _with_background(labels == numbers[:, None, None], background)
    return owned[:, None].expand(-1, latent_frame_count(num_frames), -1, -1)


def regions_from_boxes(
    boxes: Tensor, height: int, width: int, background: BackgroundAttention = BackgroundAttention.everyone
) -> Tensor:
    """Regions of tracked boxes: a token is the person's whose face covers most of it.

    A latent frame takes the boxes of all its frames. Where two cover a token alike, it is theirs whose face's centre
    is nearer, measured in its own size; people who agree even in that share it. So the order of the people means
    nothing. A box that is NaN is a face that is not in that frame.

    Args:
        boxes: (P, N, 4) left, top, right, bottom in pixels, N = 1 + 4k; for a still picture repeat one.
        height, width: of the picture in pixels, multiples of 16.

    Returns:
        (P, F, h, w) bool.

    Raises:
        InputError: boxes of another shape or turned inside out, or a size that is no multiple of 16.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.shape[0]:
        raise InputError(f"face boxes have the shape {tuple(boxes.shape)}; (people, frames, 4) is needed")
    if height < 1 or width < 1 or height % TOKEN_PIXELS or width % TOKEN_PIXELS:
        raise InputError(f"the picture is {width}x{height}; multiples of {TOKEN_PIXELS} pixels are needed")
    if bool((boxes[..., 2:] <= boxes[..., :2]).any()):
        raise InputError("a face box ends before it begins; give left, top, right, bottom in pixels")
    latent_frame_count(boxes.shape[1])
    share, distance = _reduce_to_latent_frames(*_coverage_and_distance(boxes.double(), height, width))
    best = share >= share.amax(dim=0)
    distance = distance.masked_fill(~best, torch.inf)
    owned = best & (share > 0) & (distance <= distance.amin(dim=0))
    return _with_background(owned, background)


def expand_boxes(boxes: Tensor, driving_boxes: Tensor) -> Tensor:
    """Faces' boxes in a portrait, widened by how far each driver's face moves from where it began (released code).

    Args:
        boxes: (P, 4) left, top, right, bottom in the portrait's pixels.
        driving_boxes: (P, N, 4) in the drivers' pixels; NaN where no face is, but not in the first frame.

    Returns:
        (P, 4), each side moved by at most a quarter of the face's own size.
    """
    size = driving_boxes[:, 0, 2:] - driving_boxes[:, 0, :2]
    start = driving_boxes[:, :1]
    away = torch.cat([start[..., :2] - driving_boxes[..., :2], driving_boxes[..., 2:] - start[..., 2:]], dim=-1)
    furthest = away.nan_to_num(0.0).amax(dim=1) / size.repeat(1, 2)  # (P, 4), at least 0: the first frame's
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * furthest.clamp(max=MAX_BOX_EXPANSION)
    return torch.cat([boxes[:, :2] - side[:, :2], boxes[:, 2:] + side[:, 2:]], dim=1)


def _coverage_and_distance(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Share of each token that a box covers, and the distance of their centres in boxes: (P, N, h, w) each."""
    left, top, right, bottom = boxes[..., None].unbind(dim=2)  # (P, N, 1)
    columns = torch.arange(0, width, TOKEN_PIXELS, dtype=boxes.dtype, device=boxes.device)
    rows = torch.arange(0, height, TOKEN_PIXELS, dtype=boxes.dtype, device=boxes.device)

    def covered(tokens: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return ((high.minimum(tokens + TOKEN_PIXELS) - low.maximum(tokens)) / TOKEN_PIXELS).clamp(min=0)

    def away(tokens: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return (tokens + TOKEN_PIXELS / 2 - (low + high) / 2) / (high - low)

    share = covered(rows, top, bottom)[..., None] * covered(columns, left, right)[..., None, :]
    distance = away(rows, top, bottom)[..., None] ** 2 + away(columns, left, right)[..., None, :] ** 2
    return share.nan_to_num(0.0), distance.nan_to_num(torch.inf)


def _reduce_to_latent_frames(coverage: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """The largest share and the smallest distance within each latent frame: frame 0, then every 4."""

    def groups(values: Tensor) -> Tensor:
        return rearrange(values[:, 1:], "p (f four) h w -> p f four h w", four=4)

    largest = torch.cat([coverage[:, :1], groups(coverage).amax(dim=2)], dim=1)
    return largest, torch.cat([distance[:, :1], groups(distance).amin(dim=2)], dim=1)


def _with_background(owned: Tensor, background: BackgroundAttention) -> Tensor:
    """What nobody owns goes to everyone or stays nobody's, or all goes to everyone: (P, ...) bool."""
    if background is BackgroundAttention.no_mask:
        return torch.ones_like(owned)
    return owned if background is BackgroundAttention.nobody else owned | ~owned.any(dim=0)

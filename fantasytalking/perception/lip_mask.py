"""Where the lips are, in pixels and in the latent space of a causal video VAE (paper section 3.1, stage 2)."""

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from fantasytalking.common.errors import InputError
from fantasytalking.conditions import latent_frame_count
from fantasytalking.perception.landmark_measures import interocular_distance

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
"""The outer contour of the lips in MediaPipe's face mesh, in order around the mouth."""

DEFAULT_DILATION = 0.2
"""Interocular distances. The paper names no landmark set and no dilation. The outer contour alone is about three latent
rows high at 512 pixels; a fifth of the eyes' distance takes in the skin that speech moves (to the nose's base, the
mouth's folds and half of the chin) without the jaw's outline, whose motion is the head's as well."""

_SUB_PIXEL_BITS = 4


def lip_mask(landmarks: np.ndarray, height: int, width: int, dilation: float = DEFAULT_DILATION) -> np.ndarray:
    """Fills the outer contour of the lips, widened on all sides.

    Args:
        landmarks: (T, 478, 3) pixels; a frame with NaN gets an empty mask.
        height, width: of the frames.
        dilation: radius of the widening, in interocular distances of each frame.

    Returns:
        (T, height, width) bool.

    Raises:
        InputError: a dilation below 0 or above 2.
    """
    if not 0 <= dilation <= 2:
        raise InputError(f"dilation is {dilation}; give 0 to 2 interocular distances (default {DEFAULT_DILATION})")
    masks = np.zeros((len(landmarks), height, width), np.uint8)
    radii = interocular_distance(landmarks) * dilation
    for mask, points, radius in zip(masks, landmarks[:, OUTER_LIPS, :2], radii, strict=True):
        if not np.isfinite(radius):
            continue
        limit = 4.0 * max(height, width)
        # Landmarks count from the picture's edge, OpenCV from the first pixel's centre.
        contour = np.round((np.clip(points, -limit, limit) - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [contour], (1,), shift=_SUB_PIXEL_BITS)
        # A line twice as wide as the radius, with round joints, is the widening by a disc. (OpenCV's lines and
        # polygons take in half a pixel more on each side.)
        thickness = min(round(2 * radius) - 1, 32767)
        if thickness > 0:
            cv2.polylines(mask, [contour], True, (1,), thickness, shift=_SUB_PIXEL_BITS)
    return masks.view(bool)


def project_mask(
    mask: np.ndarray,
    spatial_stride: int = 8,
    temporal_stride: int = 4,
    method: Literal["causal", "trilinear"] = "causal",
) -> np.ndarray:
    """Projects a pixel mask to latent space.

    `causal` follows the causal VAE: latent frame 0 is frame 0, latent frame k > 0 is frames 4k-3..4k. A cell's value is
    the share of its pixels, over its frames, that lie in the mask: the mean keeps the mask's area, so that the loss
    weighs a closed and an open mouth by their true sizes, where a maximum would swell small masks most.
    `trilinear` is the paper's interpolation of the whole block (torch, align_corners False); early latent frames then
    look up to about 2.8 frames too far back or ahead.

    Args:
        mask: (T, H, W) bool or float in [0, 1], T = 1 + 4k, H and W multiples of `spatial_stride`.

    Returns:
        (F, H / spatial_stride, W / spatial_stride) float32 in [0, 1], F = 1 + k.

    Raises:
        InputError: sizes that do not divide, or an unknown method.
    """
    frames, height, width = mask.shape
    latent_frames = latent_frame_count(frames, temporal_stride)
    if height % spatial_stride or width % spatial_stride:
        raise InputError(f"the mask is {width}x{height}; its sides must be multiples of {spatial_stride}")
    block = torch.from_numpy(np.ascontiguousarray(mask)).float()
    if method == "trilinear":
        size = (latent_frames, height // spatial_stride, width // spatial_stride)
        return F.interpolate(block[None, None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    if method != "causal":
        raise InputError(f"mask projection is '{method}'; use 'causal' or 'trilinear'")
    cells = F.avg_pool2d(block[:, None], spatial_stride)[:, 0]
    groups = cells[1:].unflatten(0, (latent_frames - 1, temporal_stride)).mean(dim=1)
    return torch.cat([cells[:1], groups]).numpy()

"""Computes lip masks in pixels and in the latent space of a causal video VAE (paper section 3.1, stage 2)."""

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import latent_frame_count
from fantasytalking.perception.landmark_measures import interocular_distance

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
"""The outer contour of the lips in MediaPipe's face mesh, in order around the mouth."""

DEFAULT_DILATION = 0.2
"""Radius of the dilation in interocular distances. The paper specifies neither landmarks nor dilation. The outer
contour alone is about three latent rows high at 512 pixels; a fifth of the interocular distance includes the skin that
speech moves (to the base of the nose, the mouth's folds and half of the chin) without the outline of the jaw, which
also moves with the head."""
MAX_DILATION = 2.0

_SUB_PIXEL_BITS = 4


def lip_mask(landmarks: np.ndarray, height: int, width: int, dilation: float = DEFAULT_DILATION) -> np.ndarray:
    """Fills the dilated outer contour of the lips.

    Args:
        landmarks: (T, 478, 3) pixels; the mask of a frame with NaN is empty.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        dilation: radius of the dilation, in interocular distances of each frame, 0 to `MAX_DILATION`.

    Returns:
        (T, height, width) bool.

    Raises:
        InputError: the dilation is out of range.
    """
    if not 0 <= dilation <= MAX_DILATION:
        raise InputError(
            f"dilation is {dilation}; it must be 0 to {MAX_DILATION:g} interocular distances "
            f"(default {DEFAULT_DILATION})",
            code=ErrorCode.out_of_range,
            field="dilation",
            value=dilation,
        )
    masks = np.zeros((len(landmarks), height, width), np.uint8)
    radii = interocular_distance(landmarks) * dilation
    for mask, points, radius in zip(masks, landmarks[:, OUTER_LIPS, :2], radii, strict=True):
        if not np.isfinite(radius):
            continue
        limit = 4.0 * max(height, width)
        # Landmarks are relative to the edge of the image, OpenCV's points to the center of the first pixel.
        contour = np.round((np.clip(points, -limit, limit) - 0.5) * 2**_SUB_PIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [contour], (1,), shift=_SUB_PIXEL_BITS)
        # A line of twice the radius with round joints dilates by a disc. (OpenCV's lines and polygons extend half a
        # pixel further on each side.)
        thickness = min(round(2 * radius) - 1, 32767)
        if thickness > 0:
            cv2.polylines(mask, [contour], True, (1,), thickness, shift=_SUB_PIXEL_BITS)
    return masks.view(bool)


def project_mask(
    mask: np.ndarray,
    spatial_stride: int,
    temporal_stride: int,
    method: Literal["causal", "trilinear"] = "causal",
) -> np.ndarray:
    """Projects a pixel mask to latent space.

    `causal` follows the causal VAE: latent frame 0 is frame 0, latent frame k > 0 is frames s (k - 1) + 1 to s k, where
    s is `temporal_stride`. The value of a cell is the fraction of its pixels, over its frames, that lie in the mask.
    The mean preserves the area of the mask, so that the loss weighs closed and open mouths by their true sizes; a
    maximum would enlarge small masks most.
    `trilinear` is the paper's interpolation of the whole block (torch, align_corners False); early latent frames are
    then displaced, with a stride of 4 by up to about 2.8 frames.

    Args:
        mask: (T, H, W) bool or float in [0, 1]; T = 1 + s k, H and W multiples of `spatial_stride`.
        spatial_stride: pixels per latent cell.
        temporal_stride: frames per latent frame.
        method: `causal` or `trilinear`.

    Returns:
        (F, H / spatial_stride, W / spatial_stride) float32 in [0, 1], F = 1 + k.

    Raises:
        InputError: a size is not divisible, or the method is unknown.
    """
    frames, height, width = mask.shape
    latent_frames = latent_frame_count(frames, temporal_stride)
    if height % spatial_stride or width % spatial_stride:
        raise InputError(
            f"the mask is {width}x{height}; its sides must be multiples of {spatial_stride}; resize it",
            code=ErrorCode.out_of_range,
            field="mask",
            value=(width, height),
        )
    block = torch.from_numpy(np.ascontiguousarray(mask)).float()
    if method == "trilinear":
        size = (latent_frames, height // spatial_stride, width // spatial_stride)
        return F.interpolate(block[None, None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    if method != "causal":
        raise InputError(
            f"method is '{method}'; use 'causal' or 'trilinear'",
            code=ErrorCode.invalid_choice,
            field="method",
            value=method,
        )
    cells = F.avg_pool2d(block[:, None], spatial_stride)[:, 0]
    groups = cells[1:].unflatten(0, (latent_frames - 1, temporal_stride)).mean(dim=1)
    return torch.cat([cells[:1], groups]).numpy()

"""Aligns faces by five points with a similarity transform, for images of any size.

Points are complex numbers x + iy, so that a similarity (rotation, scale, translation) is z -> a z + b and its
least-squares estimate is a quotient of two sums.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Left eye, right eye, tip of the nose, left and right corner of the mouth in a crop of side 1: ArcFace's template of
# 112 pixels. A wider crop would include more of brows and chin and have fewer pixels for the eyes.
_ARCFACE_TEMPLATE = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
)

MAX_SAMPLES_PER_SIDE = 8
"""Maximum number of samples per side of a crop pixel; larger faces are not averaged completely."""


class SimilarityTransform(NamedTuple):
    """Maps a point w of each crop (side 1) to `scale_rotation` * w + `translation` in pixels of the image."""

    scale_rotation: NDArray[np.complex128]
    """(T,) side of the crop in pixels of the image times the unit number of its rotation angle."""
    translation: NDArray[np.complex128]
    """(T,) top left corner of the crop in pixels of the image."""

    @property
    def center(self) -> NDArray[np.complex128]:
        """(T,) center of the crop in pixels of the image."""
        return self.scale_rotation * (0.5 + 0.5j) + self.translation


def estimate_similarity(
    points: NDArray[np.floating], template: NDArray[np.float64] = _ARCFACE_TEMPLATE
) -> SimilarityTransform:
    """Estimates the least-squares similarity from the template (5, 2) to (T, 5, 2) points of faces in pixels."""
    assert points.shape[1:] == (5, 2), f"points must be (T, 5, 2), not {points.shape}"
    target = points[..., 0] + 1j * points[..., 1].astype(np.float64)
    source = template[:, 0] + 1j * template[:, 1]
    target_center, centered = target.mean(axis=1), source - source.mean()
    scale_rotation = (target * centered.conj()).sum(axis=1) / np.square(np.abs(centered)).sum()
    return SimilarityTransform(scale_rotation, target_center - scale_rotation * source.mean())


def crop_aligned(frames: NDArray[np.uint8], transforms: SimilarityTransform, size: int) -> Tensor:
    """Crops upright faces of one size; the edge pixels are repeated beyond the image.

    A crop pixel is the mean of as many bilinear samples as it covers image pixels, so that large images are not
    aliased.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        transforms: one alignment per frame.
        size: side of the crops in pixels.

    Returns:
        (T, 3, size, size) float32 in [-1, 1].
    """
    covered = float(np.abs(transforms.scale_rotation).max()) / size
    samples = min(MAX_SAMPLES_PER_SIDE, max(1, math.ceil(covered)))
    crops = [
        F.avg_pool2d(_sample_crop(frame, scale_rotation, shift, size * samples, "bilinear", "border"), samples)
        for frame, scale_rotation, shift in zip(frames, transforms.scale_rotation, transforms.translation, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def crop_aligned_bicubic(frames: NDArray[np.uint8], transforms: SimilarityTransform, size: int) -> Tensor:
    """Crops as `crop_aligned`, but as OpenCV: one bicubic sample per pixel, black outside, rounded to levels."""
    crops = [
        _sample_crop(frame, scale_rotation, shift, size, "bicubic", "zeros").round().clamp(0, 255)
        for frame, scale_rotation, shift in zip(frames, transforms.scale_rotation, transforms.translation, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def _sample_crop(
    frame: NDArray[np.uint8], scale_rotation: complex, translation: complex, size: int, mode: str, padding_mode: str
) -> Tensor:
    """Samples (1, 3, size, size) levels of a frame at the centers of the crop's pixels."""
    height, width = frame.shape[:2]
    line = (np.arange(size) + 0.5) / size
    grid = scale_rotation * (line[None, :] + 1j * line[:, None]) + translation
    # The coordinates of grid_sample are -1 to 1 between the edges of the image.
    positions = torch.from_numpy(np.stack([2 * grid.real / width - 1, 2 * grid.imag / height - 1], axis=-1)).float()
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    return F.grid_sample(image, positions[None], mode=mode, padding_mode=padding_mode, align_corners=False)

"""Faces turned and scaled to one place by five points, in the picture of any size.

Points of the plane are complex numbers here, x + iy: a similarity (turn, scale, shift) is then z -> a z + b, and the
best one in the least-squares sense is a quotient of two sums.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Left eye, right eye, tip of the nose, left and right corner of the mouth in a crop of side 1: ArcFace's places, of 112
# pixels. A wider crop has more of brows and chin, and fewer pixels for the eyes.
_ARCFACE_TEMPLATE = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
)

MAX_SAMPLES_PER_SIDE = 8
"""Along each side of a pixel of the crop: beyond that a larger face is no longer averaged in full."""


class SimilarityTransform(NamedTuple):
    """Where each frame's crop lies in the picture: the crop's point w (side 1) is the picture's `scale_rotation` w +
    `translation`."""

    scale_rotation: NDArray[np.complex128]
    """(T,) the crop's side in pixels of the picture, times a unit number of the angle by which it is turned."""
    translation: NDArray[np.complex128]
    """(T,) the crop's left upper corner in pixels."""

    @property
    def center(self) -> NDArray[np.complex128]:
        """(T,) of the crop, in pixels of the picture."""
        return self.scale_rotation * (0.5 + 0.5j) + self.translation


def estimate_similarity(
    points: NDArray[np.floating], template: NDArray[np.float64] = _ARCFACE_TEMPLATE
) -> SimilarityTransform:
    """The similarity that brings the crop's standard places (5, 2) nearest to (T, 5, 2) points of faces, in pixels."""
    assert points.shape[1:] == (5, 2), f"points must be (T, 5, 2), not {points.shape}"
    found = points[..., 0] + 1j * points[..., 1].astype(np.float64)
    places = template[:, 0] + 1j * template[:, 1]
    middle, centred = found.mean(axis=1), places - places.mean()
    turn = (found * centred.conj()).sum(axis=1) / np.square(np.abs(centred)).sum()
    return SimilarityTransform(turn, middle - turn * places.mean())


def crop_aligned(frames: NDArray[np.uint8], transforms: SimilarityTransform, size: int) -> Tensor:
    """Crops of faces, upright and of one size; beyond the picture its edge is repeated.

    A pixel of the crop is the mean of as many bilinear samples as it covers pixels of the picture, so that fine
    patterns of large pictures do not turn into coarse ones.

    Args:
        frames: (T, H, W, 3) RGB.
        transforms: one for each frame.
        size: pixels of a side of the crops.

    Returns:
        (T, 3, size, size) float32 in [-1, 1].
    """
    covered = float(np.abs(transforms.scale_rotation).max()) / size
    samples = min(MAX_SAMPLES_PER_SIDE, max(1, math.ceil(covered)))
    crops = [
        F.avg_pool2d(_sample_crop(frame, turn, shift, size * samples, "bilinear", "border"), samples)
        for frame, turn, shift in zip(frames, transforms.scale_rotation, transforms.translation, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def crop_aligned_bicubic(frames: NDArray[np.uint8], transforms: SimilarityTransform, size: int) -> Tensor:
    """The same by one cubic sample a pixel, black beyond the picture, rounded to whole levels: as OpenCV does it."""
    crops = [
        _sample_crop(frame, turn, shift, size, "bicubic", "zeros").round().clamp(0, 255)
        for frame, turn, shift in zip(frames, transforms.scale_rotation, transforms.translation, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def _sample_crop(
    frame: NDArray[np.uint8], scale_rotation: complex, translation: complex, size: int, mode: str, padding_mode: str
) -> Tensor:
    """(1, 3, size, size) levels of a picture at the middles of a crop's pixels."""
    height, width = frame.shape[:2]
    line = (np.arange(size) + 0.5) / size
    grid = scale_rotation * (line[None, :] + 1j * line[:, None]) + translation
    # grid_sample counts from -1 to 1 between the picture's edges.
    where = torch.from_numpy(np.stack([2 * grid.real / width - 1, 2 * grid.imag / height - 1], axis=-1)).float()
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    return F.grid_sample(picture, where[None], mode=mode, padding_mode=padding_mode, align_corners=False)

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
_PLACES = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
)

MOST_SAMPLES = 8
"""Along each side of a pixel of the crop: beyond that a larger face is no longer averaged in full."""


class Similarity(NamedTuple):
    """Where each frame's crop lies in the picture: the crop's point w (side 1) is the picture's `turn` w + `shift`."""

    turn: NDArray[np.complex128]
    """(T,) the crop's side in pixels of the picture, times a unit number of the angle by which it is turned."""
    shift: NDArray[np.complex128]
    """(T,) the crop's left upper corner in pixels."""

    @property
    def centre(self) -> NDArray[np.complex128]:
        """(T,) of the crop, in pixels of the picture."""
        return self.turn * (0.5 + 0.5j) + self.shift


def find_similarity(points: NDArray[np.floating], standard: NDArray[np.float64] = _PLACES) -> Similarity:
    """The similarity that brings the crop's standard places (5, 2) nearest to (T, 5, 2) points of faces, in pixels."""
    assert points.shape[1:] == (5, 2), f"points must be (T, 5, 2), not {points.shape}"
    found = points[..., 0] + 1j * points[..., 1].astype(np.float64)
    places = standard[:, 0] + 1j * standard[:, 1]
    middle, centred = found.mean(axis=1), places - places.mean()
    turn = (found * centred.conj()).sum(axis=1) / np.square(np.abs(centred)).sum()
    return Similarity(turn, middle - turn * places.mean())


def cut_aligned(frames: NDArray[np.uint8], places: Similarity, size: int) -> Tensor:
    """Crops of faces, upright and of one size; beyond the picture its edge is repeated.

    A pixel of the crop is the mean of as many bilinear samples as it covers pixels of the picture, so that fine
    patterns of large pictures do not turn into coarse ones.

    Args:
        frames: (T, H, W, 3) RGB.
        places: one for each frame.
        size: pixels of a side of the crops.

    Returns:
        (T, 3, size, size) float32 in [-1, 1].
    """
    covered = float(np.abs(places.turn).max()) / size
    samples = min(MOST_SAMPLES, max(1, math.ceil(covered)))
    crops = [
        F.avg_pool2d(_sampled(frame, turn, shift, size * samples, "bilinear", "border"), samples)
        for frame, turn, shift in zip(frames, places.turn, places.shift, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def cut_sampled(frames: NDArray[np.uint8], places: Similarity, size: int) -> Tensor:
    """The same by one cubic sample a pixel, black beyond the picture, rounded to whole levels: as OpenCV does it."""
    crops = [
        _sampled(frame, turn, shift, size, "bicubic", "zeros").round().clamp(0, 255)
        for frame, turn, shift in zip(frames, places.turn, places.shift, strict=True)
    ]
    return torch.cat(crops) / 127.5 - 1


def _sampled(frame: NDArray[np.uint8], turn: complex, shift: complex, size: int, mode: str, beyond: str) -> Tensor:
    """(1, 3, size, size) levels of a picture at the middles of a crop's pixels."""
    height, width = frame.shape[:2]
    line = (np.arange(size) + 0.5) / size
    grid = turn * (line[None, :] + 1j * line[:, None]) + shift
    # grid_sample counts from -1 to 1 between the picture's edges.
    where = torch.from_numpy(np.stack([2 * grid.real / width - 1, 2 * grid.imag / height - 1], axis=-1)).float()
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    return F.grid_sample(picture, where[None], mode=mode, padding_mode=beyond, align_corners=False)

"""Pictures as feature networks want them: scaled by torch, normalised."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Means and standard deviations of RGB in [0, 1]."""


def normalize_images(frames: NDArray[np.uint8], statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """(N, H, W, 3) uint8 RGB to (N, 3, H, W) float32 less the mean over the deviation."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in statistics)
    return (torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255 - mean) / deviation


def resize_short_side(frames: NDArray[np.uint8], side: int, mode: str) -> NDArray[np.uint8]:
    """(N, H, W, 3) scaled so that min(h, w) is `side`, by torch's `mode` without antialiasing, rounded to levels."""
    height, width = frames.shape[1:3]
    size = (side * height // min(height, width), side * width // min(height, width))
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(pictures, size=size, mode=mode, align_corners=False)
    return scaled.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def center_crop(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The (N, side, side, 3) middle of pictures at least that large."""
    top, left = (round((length - side) / 2) for length in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]

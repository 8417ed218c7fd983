"""Resizing and normalization of images for feature networks."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's means and standard deviations of RGB in [0, 1]."""
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""CLIP's means and standard deviations of RGB in [0, 1]."""


def normalize_images(frames: NDArray[np.uint8], statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Returns (N, 3, H, W) float32 images, normalized by mean and standard deviation, from (N, H, W, 3) uint8 RGB."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in statistics)
    return (torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255 - mean) / deviation


def resize_short_side(frames: NDArray[np.uint8], side: int, mode: str) -> NDArray[np.uint8]:
    """Resizes (N, H, W, 3) uint8 images to min(h, w) = `side` by torch's `mode` without antialiasing."""
    height, width = frames.shape[1:3]
    size = (side * height // min(height, width), side * width // min(height, width))
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(images, size=size, mode=mode, align_corners=False)
    return scaled.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def center_crop(frames: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns the (N, side, side, 3) center of images that are at least as large."""
    top, left = (round((length - side) / 2) for length in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]

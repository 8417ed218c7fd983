"""Crops source frames to the region that a clip's time range names."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.data.prepare.plan import RelativeCrop


def crop_frame(frame: NDArray[np.uint8], crop: RelativeCrop | None) -> NDArray[np.uint8]:
    """Crops a frame (H, W, 3); the crop is limited to the frame and at least 16 pixels wide and high."""
    if crop is None:
        return frame
    height, width = frame.shape[:2]
    x0, y0 = min(round(crop.left * height), width - 16), min(round(crop.top * height), height - 16)
    x1 = min(width, x0 + max(16, round(crop.width * height)))
    y1 = min(height, y0 + max(16, round(crop.height * height)))
    return np.ascontiguousarray(frame[max(0, y0) : y1, max(0, x0) : x1])

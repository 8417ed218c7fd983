"""Measures the blur of a face without a reference.

After Crete, Dolmiere, Ladret and Nicolas, "The blur effect: perception and estimation with a new no-reference
perceptual blur metric", 2007: blurring a sharp image again removes much of the contrast between neighboring pixels,
blurring a blurred one little. The remaining fraction depends neither on contrast nor on brightness. This module uses
squared differences, so that edges weigh more than sensor noise.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_FACE_WIDTH = 48
"""Width in pixels to which larger faces are scaled, so that the blur is relative to the face, not to its pixels."""

_TAPS = 5
_MIN_CONTRAST = 1e-6


def face_blur(frame: NDArray[np.uint8], box: NDArray[np.floating]) -> float:
    """Returns the blur of a face in [0, 1], larger is more blurred; 1 without any contrast or pixel.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box: (4,) left, top, right, bottom in pixels.
    """
    height, width = frame.shape[:2]
    left, top = np.clip(np.floor(box[:2]).astype(int), 0, [width, height]).tolist()
    right, bottom = np.clip(np.ceil(box[2:]).astype(int), 0, [width, height]).tolist()
    if right - left < _TAPS or bottom - top < _TAPS:
        return 1.0
    face = np.asarray(cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY), np.float32)
    scale = MAX_FACE_WIDTH / (right - left)
    if scale < 1:
        face = np.asarray(cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32)
    return max(_reblur_residual(face, axis) for axis in (0, 1))


def _reblur_residual(image: NDArray[np.float32], axis: int) -> float:
    """Returns the root of the fraction of squared differences that remains after blurring along an axis, in [0, 1]."""
    taps = (_TAPS, 1) if axis == 1 else (1, _TAPS)
    before, after = (float(np.square(np.diff(values, axis=axis)).sum()) for values in (image, cv2.blur(image, taps)))
    return min(1.0, (after / before) ** 0.5) if before > _MIN_CONTRAST else 1.0

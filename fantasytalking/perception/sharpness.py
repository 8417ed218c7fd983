"""How blurred a face is, without a sharp original to compare with.

After Crete, Dolmiere, Ladret and Nicolas, "The blur effect: perception and estimation with a new no-reference
perceptual blur metric", 2007: a sharp picture loses much of its contrast between neighbouring pixels when it is blurred
once more, a blurred one little. The share that is left does not depend on contrast or brightness. Here it is that of
the squared differences, so that edges weigh more than the noise of a sensor.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_FACE_WIDTH = 48
"""Width that larger faces are brought to, so that what counts is detail beside the face, not the number of pixels."""

_TAPS = 5
_MIN_CONTRAST = 1e-6


def face_blur(frame: NDArray[np.uint8], box: NDArray[np.floating]) -> float:
    """Blur of a face in [0, 1], larger is more blurred; 1 where there is no contrast, or no pixel, at all.

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
    """Root of the share of the squared differences along an axis that blurring along it leaves, in [0, 1]."""
    taps = (_TAPS, 1) if axis == 1 else (1, _TAPS)
    before, after = (float(np.square(np.diff(values, axis=axis)).sum()) for values in (image, cv2.blur(image, taps)))
    return min(1.0, (after / before) ** 0.5) if before > _MIN_CONTRAST else 1.0

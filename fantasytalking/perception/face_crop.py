"""Computes square crops around faces and the five points of ArcFace's alignment."""

from typing import NamedTuple

import cv2
import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.face_detection import landmark_box
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

_NOSE_TIP, _LEFT_MOUTH_CORNER, _RIGHT_MOUTH_CORNER = 1, 61, 291


class SquareCrop(NamedTuple):
    """A square in pixels of an image; it may extend beyond the edges."""

    x: int
    y: int
    side: int

    def extract(self, image: np.ndarray, size: int | None = None) -> np.ndarray:
        """Crops an (H, W, 3) uint8 image and scales it to `size`; edge pixels are repeated beyond the edges."""
        height, width = image.shape[:2]
        before_x, before_y = max(0, -self.x), max(0, -self.y)
        after_x, after_y = max(0, self.x + self.side - width), max(0, self.y + self.side - height)
        part = image[max(0, self.y) : self.y + self.side, max(0, self.x) : self.x + self.side]
        part = cv2.copyMakeBorder(part, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)
        if size is None or size == self.side:
            return part
        smaller = size < self.side
        return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def face_crop(landmarks: np.ndarray, margin: float = 0.5, *, image_size: tuple[int, int] | None = None) -> SquareCrop:
    """Returns the square around a face, or around all positions of a moving face.

    Args:
        landmarks: (478, 3) or (T, 478, 3) pixels; frames with NaN are ignored.
        margin: padding on each side, as a fraction of the larger side of the landmarks. The landmarks end at the
            hairline: 0.5 includes hair and chin, 1.0 the top of the shoulders.
        image_size: (height, width); the square is moved, and shrunk if necessary, to lie within the image.

    Raises:
        InputError: no frame has landmarks, or the margin is negative.
    """
    if margin < 0:
        raise InputError(
            f"margin is {margin}; it must be a fraction of the face size, 0 or more",
            code=ErrorCode.out_of_range,
            field="margin",
            value=margin,
        )
    boxes = landmark_box(landmarks).reshape(-1, 4)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes):
        raise InputError(
            "no frame has landmarks to crop around; give frames that show a face",
            code=ErrorCode.no_face,
            field="landmarks",
        )
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)))
    if image_size is not None:
        side = min(side, *image_size)
    x, y = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    if image_size is not None:
        x, y = min(max(0, x), image_size[1] - side), min(max(0, y), image_size[0] - side)
    return SquareCrop(x, y, side)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Converts (..., 478, 3) landmarks to (..., 5, 2) float32 points in the order of insightface's `norm_crop`.

    The points are left eye, right eye, nose tip, left and right mouth corner, with left and right as in the image. The
    point of an eye is the center of its corners, which unlike the iris does not follow the gaze.
    """
    plane = landmarks[..., :2]
    points = [
        plane[..., LEFT_EYE_CORNERS, :].mean(axis=-2),
        plane[..., RIGHT_EYE_CORNERS, :].mean(axis=-2),
        plane[..., _NOSE_TIP, :],
        plane[..., _LEFT_MOUTH_CORNER, :],
        plane[..., _RIGHT_MOUTH_CORNER, :],
    ]
    return np.stack(points, axis=-2).astype(np.float32)

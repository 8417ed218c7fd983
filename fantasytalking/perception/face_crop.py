"""Square crops around a face, and the five points that ArcFace's alignment wants."""

from typing import NamedTuple

import cv2
import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.perception.face_detection import landmark_box
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS

_NOSE_TIP, _LEFT_MOUTH_CORNER, _RIGHT_MOUTH_CORNER = 1, 61, 291


class SquareCrop(NamedTuple):
    """A square of a picture in pixels; it may reach beyond the picture's edges."""

    x: int
    y: int
    side: int

    def extract(self, image: np.ndarray, size: int | None = None) -> np.ndarray:
        """The crop of an (H, W, 3) uint8 picture, scaled to `size`; beyond the edges the edge pixels are repeated."""
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
    """The square around a face, or around all places of a face in motion.

    Args:
        landmarks: (478, 3) or (T, 478, 3) pixels; frames with NaN are left out.
        margin: added on each side, as a share of the landmarks' larger side. The landmarks end at the hairline: 0.5
            keeps hair and chin, 1.0 keeps the shoulders' beginning.
        image_size: (height, width): the square is moved, and shrunk where it must be, to lie in the picture.

    Raises:
        InputError: no frame has landmarks, or a negative margin.
    """
    if margin < 0:
        raise InputError(f"margin is {margin}; give a share of the face size, 0 or more")
    boxes = landmark_box(landmarks).reshape(-1, 4)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes):
        raise InputError("there is no face to crop around: no frame has landmarks")
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * margin)))
    if image_size is not None:
        side = min(side, *image_size)
    x, y = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    if image_size is not None:
        x, y = min(max(0, x), image_size[1] - side), min(max(0, y), image_size[0] - side)
    return SquareCrop(x, y, side)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """(..., 478, 3) landmarks to (..., 5, 2) float32 points in the order of insightface's `norm_crop`.

    Left eye, right eye, nose tip, left and right corner of the mouth, left and right as in the picture. An eye's point
    is the middle of its corners: unlike the iris it does not follow the gaze.
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

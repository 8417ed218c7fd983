"""Automatic crops of images and videos, centered on the faces of the first frame."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.data.prepare.plan import VIDEO_SUFFIXES
from fantasytalking.evaluation.benchmark.media_source import CropBox
from fantasytalking.perception.face_detection import detect_faces, landmark_box

CROP_DIGITS = 6


def crop_around_faces(image: NDArray[np.uint8], aspect: float) -> CropBox | None:
    """Returns the largest crop with a given aspect ratio, with the faces as close to the center as possible.

    Args:
        image: (H, W, 3) uint8 RGB.
        aspect: width over height of the crop.

    Returns:
        the crop; the center of the image if no face is found (animals, drawings). None = the whole image.
    """
    height, width = image.shape[:2]
    crop_width, crop_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    if (crop_width, crop_height) == (width, height):
        return None
    boxes = np.array([landmark_box(face.landmarks) for face in detect_faces(image)]).reshape(-1, 4)
    center = np.array([width, height]) / 2
    if len(boxes):
        center = (boxes[:, :2].min(axis=0) + boxes[:, 2:].max(axis=0)) / 2
    size = np.array([crop_width, crop_height])
    left, top = np.clip(np.round(center - size / 2), 0, [width - crop_width, height - crop_height]).tolist()
    return normalize_crop(left, top, crop_width, crop_height, height)


def normalize_crop(left: float, top: float, width: float, height: float, image_height: int) -> CropBox:
    """Converts a crop in pixels of an image of `image_height` pixels to heights of the image, as protocols store it."""
    return (
        round(left / image_height, CROP_DIGITS),
        round(top / image_height, CROP_DIGITS),
        round(width / image_height, CROP_DIGITS),
        round(height / image_height, CROP_DIGITS),
    )


def load_first_frame(path: Path, start: float = 0.0) -> NDArray[np.uint8]:
    """Returns the (H, W, 3) image of an image file, or the frame of a video at `start` seconds."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return next(frame for _, frame in media.iter_frames(path, fps=None, start=start))
    return media.read_image(path)

"""The part of a picture that a benchmark is about, where nobody says which: around the faces of the first."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.data.prepare.plan import VIDEO_SUFFIXES
from fantasytalking.evaluation.benchmark.media_source import CropBox
from fantasytalking.perception.face_detection import detect_faces, landmark_box

CROP_DIGITS = 6


def crop_around_faces(image: NDArray[np.uint8], aspect: float) -> CropBox | None:
    """The largest part of a (H, W, 3) picture that is `aspect` times as wide as high, its faces as near to the middle
    as can be; the middle of the picture where none is found (animals, drawings). None: it is the whole picture."""
    height, width = image.shape[:2]
    across, down = min(width, round(height * aspect)), min(height, round(width / aspect))
    if (across, down) == (width, height):
        return None
    boxes = np.array([landmark_box(face.landmarks) for face in detect_faces(image)]).reshape(-1, 4)
    centre = np.array([width, height]) / 2
    if len(boxes):
        centre = (boxes[:, :2].min(axis=0) + boxes[:, 2:].max(axis=0)) / 2
    left, top = np.clip(np.round(centre - np.array([across, down]) / 2), 0, [width - across, height - down]).tolist()
    return normalize_crop(left, top, across, down, height)


def normalize_crop(left: float, top: float, width: float, height: float, image_height: int) -> CropBox:
    """Pixels of a picture `image_height` pixels high, as a protocol holds them."""
    return (
        round(left / image_height, CROP_DIGITS),
        round(top / image_height, CROP_DIGITS),
        round(width / image_height, CROP_DIGITS),
        round(height / image_height, CROP_DIGITS),
    )


def load_first_frame(path: Path, start: float = 0.0) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture file, or of a video at `start` seconds."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return next(frame for _, frame in media.iter_frames(path, fps=None, start=start))
    return media.read_image(path)

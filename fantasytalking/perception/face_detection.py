"""Detects faces in single images: boxes with scores, and faces with their landmarks."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.mediapipe_graphs import create_face_detection, create_face_mesh, run_face_mesh

WINDOW_FACE_RATIO = 3.0
"""Side of the detection window in face sizes: MediaPipe's detectors work best at this ratio."""

MIN_WINDOW_SIZE = 256
"""Minimum side of a detection window in pixels; smaller windows are enlarged."""

_MIN_SCORE = 0.5
_SMALL_FACE_DIVISORS = (3, 6, 12)
"""Sides of the tiles that are searched for small faces, as parts of the image's shorter side."""
_MIN_TILE_SIZE = 96
_MIN_SMALL_FACE_SCORE = 0.75
"""Among hundreds of tiles, some texture exceeds 0.6."""


class FaceBox(NamedTuple):
    """A detected face: center and size in pixels, score in [0, 1]."""

    x: float
    y: float
    size: float
    score: float

    def is_near(self, other: "FaceBox") -> bool:
        """Whether both may be one face moments apart: centers within one size, sizes within a factor of two."""
        small, large = sorted((self.size, other.size))
        return bool(np.hypot(self.x - other.x, self.y - other.y) < large and large < 2 * small)


class DetectedFace(NamedTuple):
    """A face in a still image."""

    landmarks: np.ndarray
    """(478, 3) float32 pixels of the image; z also in pixels, smaller is nearer."""
    box: np.ndarray
    """(4,) float32 x0, y0, x1, y1 around the landmarks."""
    confidence: float
    """FaceDetection's score in [0, 1]."""


class DetectionWindow(NamedTuple):
    """The part [x0, x1) x [y0, y1) of an image, in pixels, in which MediaPipe detects."""

    x0: int
    y0: int
    x1: int
    y1: int

    def extract(self, image: np.ndarray, masked_faces: Sequence[FaceBox] = ()) -> np.ndarray:
        """Crops an (H, W, 3) image, contiguous, and enlarges it to `MIN_WINDOW_SIZE` if it is smaller.

        Faces in `masked_faces` are painted gray, so that they are not confused with the target face.
        """
        part = np.ascontiguousarray(image[self.y0 : self.y1, self.x0 : self.x1])
        for box in masked_faces:
            x0, y0, x1, y1 = (
                round(edge)
                for edge in (
                    box.x - box.size / 2 - self.x0,
                    box.y - box.size / 2 - self.y0,
                    box.x + box.size / 2 - self.x0,
                    box.y + box.size / 2 - self.y0,
                )
            )
            if x1 > 0 and y1 > 0 and x0 < part.shape[1] and y0 < part.shape[0]:
                part = part.copy() if part.base is not None or part is image else part
                part[max(0, y0) : y1, max(0, x0) : x1] = 128
        scale = MIN_WINDOW_SIZE / min(part.shape[:2])
        if scale <= 1:
            return part
        return cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Converts (N, 3) fractions of the window (z in units of its width) to pixels of the image."""
        width, height = self.x1 - self.x0, self.y1 - self.y0
        scale = np.array([width, height, width], np.float32)
        return points * scale + np.array([self.x0, self.y0, 0], np.float32)


def window_around(box: FaceBox, height: int, width: int, face_ratio: float = WINDOW_FACE_RATIO) -> DetectionWindow:
    """Returns the square of `face_ratio` face sizes around a face, moved, and shrunk if necessary, into the image."""
    side = max(8, min(round(box.size * face_ratio), height, width))
    x0 = min(max(0, round(box.x - side / 2)), width - side)
    y0 = min(max(0, round(box.y - side / 2)), height - side)
    return DetectionWindow(x0, y0, x0 + side, y0 + side)


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """Converts (..., 478, 3) landmarks to (..., 4) x0, y0, x1, y1."""
    return np.concatenate([landmarks[..., :2].min(axis=-2), landmarks[..., :2].max(axis=-2)], axis=-1)


def landmark_center(landmarks: np.ndarray) -> FaceBox:
    """Returns the center and size (larger side of the box) of a face with (478, 3) landmarks, with score 1."""
    (x0, y0), (x1, y1) = landmarks[:, :2].min(axis=0).tolist(), landmarks[:, :2].max(axis=0).tolist()
    return FaceBox((x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0), 1.0)


class FaceDetector:
    """Runs both FaceDetection models on an image of any size and removes duplicate boxes."""

    def __init__(self) -> None:
        self._short_range = create_face_detection(full_range=False, min_confidence=0.05)
        self._full_range = create_face_detection(full_range=True, min_confidence=_MIN_SCORE)

    def detect(self, image: np.ndarray, *, thorough: bool = True) -> list[FaceBox]:
        """Returns the boxes of all faces in an (H, W, 3) uint8 image, largest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            thorough: run both models and, if neither finds a face, search overlapping tiles, which finds faces below
                about 1/20 of the image. Otherwise the full-range model runs alone, as a quick check.
        """
        height, width = image.shape[:2]
        whole = DetectionWindow(0, 0, width, height)
        boxes = self._search(self._full_range, image, whole)
        if thorough:
            boxes += self._search(self._short_range, image, whole)
            if not boxes:
                for window in _tiles(height, width, min(height, width) * 2 // 3):
                    boxes += self._search(self._short_range, image, window)
        return _suppress_duplicates(boxes)

    def score(self, image: np.ndarray, box: FaceBox) -> float:
        """Returns the short-range model's score of a known face in a window of twice its size; 0 if not detected."""
        window = window_around(box, image.shape[0], image.shape[1], face_ratio=2.0)
        found = self._search(self._short_range, image, window, 0.0)
        return max((other.score for other in found if box.is_near(other)), default=0.0)

    def detect_small(self, image: np.ndarray) -> Iterator[FaceBox]:
        """Yields boxes of faces that are too small for `detect`, the larger ones first; takes seconds."""
        height, width = image.shape[:2]
        for divisor in _SMALL_FACE_DIVISORS:
            side = min(height, width) // divisor
            if side >= _MIN_TILE_SIZE:
                for window in _tiles(height, width, side):
                    yield from self._search(self._short_range, image, window, _MIN_SMALL_FACE_SCORE)

    @staticmethod
    def _search(model: Any, image: np.ndarray, window: DetectionWindow, min_score: float = _MIN_SCORE) -> list[FaceBox]:
        boxes = []
        for detection in model.process(window.extract(image)).detections or ():
            area = detection.location_data.relative_bounding_box
            corners = np.array([[area.xmin, area.ymin, 0], [area.xmin + area.width, area.ymin + area.height, 0]])
            (x0, y0, _), (x1, y1, _) = window.to_image(corners).tolist()
            if x1 > x0 and y1 > y0 and detection.score[0] >= min_score:
                boxes.append(FaceBox((x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0), float(detection.score[0])))
        return boxes

    def close(self) -> None:
        """Closes the graphs."""
        for model in (self._short_range, self._full_range):
            model.close()


def _tiles(height: int, width: int, side: int) -> list[DetectionWindow]:
    """Returns overlapping squares that cover the image."""
    side = max(1, side)
    rows = np.linspace(0, height - side, max(2, round(2 * height / side) - 1)).astype(int).tolist()
    columns = np.linspace(0, width - side, max(2, round(2 * width / side) - 1)).astype(int).tolist()
    return [DetectionWindow(x, y, x + side, y + side) for y in rows for x in columns]


def _suppress_duplicates(boxes: list[FaceBox]) -> list[FaceBox]:
    """Keeps the box with the highest score of each face."""
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda item: -item.score):
        if all(np.hypot(box.x - other.x, box.y - other.y) > 0.5 * max(box.size, other.size) for other in kept):
            kept.append(box)
    return sorted(kept, key=lambda item: -item.size)


def detect_faces(image: np.ndarray) -> list[DetectedFace]:
    """Returns all faces of a still image, from left to right.

    Args:
        image: (H, W, 3) uint8 RGB, at least 8 pixels high and wide.

    Raises:
        InputError: the array is not such an image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 8:
        raise InputError(
            f"the image is {image.dtype} {image.shape}; give uint8 RGB of shape (H, W, 3), 8x8 pixels or more",
            code=ErrorCode.shape_mismatch,
            field="image",
            value=image.shape,
        )
    detector, mesh = FaceDetector(), create_face_mesh(static=True, max_faces=4)
    try:
        faces = []
        for box in detector.detect(image):
            landmarks = find_landmarks(mesh, image, box)
            if landmarks is not None:
                confidence = detector.score(image, landmark_center(landmarks))
                faces.append(DetectedFace(landmarks, landmark_box(landmarks), confidence))
    finally:
        detector.close()
        mesh.close()
    return sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))


def find_small_face(image: np.ndarray) -> FaceBox | None:
    """Returns a face that is too small for `detect_faces` to find, or None."""
    detector, mesh = FaceDetector(), create_face_mesh(static=True, max_faces=4)
    try:
        return next((box for box in detector.detect_small(image) if find_landmarks(mesh, image, box) is not None), None)
    finally:
        detector.close()
        mesh.close()


def find_landmarks(mesh: Any, image: np.ndarray, box: FaceBox) -> np.ndarray | None:
    """Returns (478, 3) landmarks in pixels of the face at `box`, or None.

    Args:
        mesh: a static FaceMesh graph, which may also detect neighboring faces.
        image: (H, W, 3) uint8 RGB.
        box: the face.
    """
    window = window_around(box, image.shape[0], image.shape[1])
    found = [window.to_image(points) for points in run_face_mesh(mesh, window.extract(image))]
    near = [points for points in found if landmark_center(points).is_near(box)]
    return min(near, key=lambda points: _distance(landmark_center(points), box), default=None)


def _distance(one: FaceBox, other: FaceBox) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))

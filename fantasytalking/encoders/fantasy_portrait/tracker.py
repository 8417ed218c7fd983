"""Tracks a face through a video with the detector and the landmark network of FantasyPortrait's front end.

Known points of the face select which face is tracked. The published code matches the detections of every frame to the
tracked faces; here a face is tracked until its probability is too low. Faces below 96 pixels, which the published code
drops, are kept.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.fantasy_portrait.detector import FantasyPortraitDetector
from fantasytalking.encoders.fantasy_portrait.landmarks import (
    JAW_ENDS,
    FantasyPortraitLandmarks,
    PointSmoother,
    bounding_box,
    crop_from_box,
    crop_from_points,
    eye_angle,
)

DETECTOR_FILE, LANDMARKS_FILE = "face_det.onnx", "face_landmark.onnx"
FIVE_POINT_INDICES = [182, 202, 36, 149, 133]
"""Left eye, right eye, tip of the nose, left and right corner of the mouth among the 222."""
MIN_FACE_PROBABILITY = 1e-4
_PIXEL_CENTER = 0.5 + 0.5j
"""Offset from OpenCV's coordinates to coordinates relative to the edge of the image."""


class FantasyPortraitNetworks:
    """The detector and the landmark network.

    Args:
        detector: the face detector.
        landmarks: the landmark network.
    """

    def __init__(self, detector: FantasyPortraitDetector, landmarks: FantasyPortraitLandmarks) -> None:
        self.detector, self.landmarks = detector, landmarks

    @classmethod
    def from_folder(cls, folder: Path) -> "FantasyPortraitNetworks | None":
        """Loads face_det.onnx and face_landmark.onnx from a folder; returns None if it contains neither.

        Raises:
            InputError: the folder contains only one of them, or one is damaged or another network.
        """
        found = [name for name in (DETECTOR_FILE, LANDMARKS_FILE) if (folder / name).is_file()]
        if not found:
            return None
        if len(found) == 1:
            (missing,) = {DETECTOR_FILE, LANDMARKS_FILE} - set(found)
            raise InputError(
                f"'{folder}' contains {found[0]} without {missing}; both are needed; add {missing}",
                code=ErrorCode.missing_weights,
                field=missing,
                value=str(folder),
            )
        detector = FantasyPortraitDetector.from_pretrained(folder / DETECTOR_FILE)
        return cls(detector, FantasyPortraitLandmarks.from_pretrained(folder / LANDMARKS_FILE))


class FantasyPortraitFaceTracker:
    """Tracks one face through a video, which may arrive in pieces.

    Args:
        networks: the two networks.
    """

    def __init__(self, networks: FantasyPortraitNetworks) -> None:
        self._networks = networks
        self._smoother = PointSmoother()
        self._points: NDArray[np.complex128] | None = None
        self._size = 0.0

    def track(self, frames: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns the five points of the face as these networks predict them.

        Args:
            frames: (T, H, W, 3) uint8 RGB, the next frames of the video.
            points: (T, 5, 2) pixels that select the face; NaN where it is not visible.

        Returns:
            (T, 5, 2) pixels; NaN where `points` is NaN or these networks detect no face.
        """
        found = np.full((len(frames), 5, 2), np.nan)
        for number, (frame, known) in enumerate(zip(frames, points, strict=True)):
            if not np.isfinite(known).all():
                self._points = None
                continue
            self._track_frame(frame, complex(*known.mean(axis=0)) - _PIXEL_CENTER)
            if self._points is not None:
                five = self._points[FIVE_POINT_INDICES] + _PIXEL_CENTER
                found[number] = np.stack([five.real, five.imag], axis=1)
        return found

    def _track_frame(self, frame: NDArray[np.uint8], point: complex) -> None:
        if self._points is None or not _contains(point, bounding_box(self._points)):
            box = self._initialize(frame, point)
            if box is None:
                return
            crop = crop_from_box(box)
        else:
            crop = crop_from_points(self._points, eye_angle(self._points))
        prediction = self._networks.landmarks.predict(frame, crop)
        if prediction.probability < MIN_FACE_PROBABILITY:
            self._points = None
            return
        self._points = self._smoother.smooth(prediction.points, self._size)
        first, last = self._points[list(JAW_ENDS)]
        degrees = np.rad2deg(abs(prediction.pitch) + 0.6 * abs(prediction.yaw))
        self._size = max(1.0, float(abs(first - last)) * (1 + degrees / 18))

    def _initialize(self, frame: NDArray[np.uint8], point: complex) -> NDArray[np.float64] | None:
        """Returns the box of the landmarks within the detected box; None if nothing is detected."""
        self._points, self._smoother = None, PointSmoother()
        box = self._networks.detector.detect_at(frame, point)
        if box is None:
            return None
        prediction = self._networks.landmarks.predict(frame, crop_from_box(box))
        if prediction.probability < MIN_FACE_PROBABILITY:
            return None
        box = bounding_box(prediction.points)
        self._size = max(1.0, float(np.hypot(box[2] - box[0], box[3] - box[1])))
        return box


def _contains(point: complex, box: NDArray[np.float64]) -> bool:
    return bool(box[0] <= point.real <= box[2] and box[1] <= point.imag <= box[3])

"""Faces as FantasyPortrait's front end finds them: its detector and its landmark network, along a video.

Who is followed is told by points that are known of the face. Where the published code has every picture's detections
compete with what it follows, a face is followed here until the network no longer believes in it; and faces below 96
pixels, which the published code drops, are kept.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
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
"""From OpenCV's coordinates to those that count from the picture's edge."""


class FantasyPortraitNetworks:
    """The two networks."""

    def __init__(self, detector: FantasyPortraitDetector, landmarks: FantasyPortraitLandmarks) -> None:
        self.detector, self.landmarks = detector, landmarks

    @classmethod
    def from_folder(cls, folder: Path) -> "FantasyPortraitNetworks | None":
        """The networks of face_det.onnx and face_landmark.onnx in a folder; None where it holds neither.

        Raises:
            InputError: it holds one of them, or one is damaged or another network.
        """
        there = [name for name in (DETECTOR_FILE, LANDMARKS_FILE) if (folder / name).is_file()]
        if not there:
            return None
        if len(there) == 1:
            raise InputError(f"'{folder}' holds {there[0]} alone; {DETECTOR_FILE} and {LANDMARKS_FILE} go together")
        detector = FantasyPortraitDetector.from_pretrained(folder / DETECTOR_FILE)
        return cls(detector, FantasyPortraitLandmarks.from_pretrained(folder / LANDMARKS_FILE))


class FantasyPortraitFaceTracker:
    """One face through a video, which may come piece by piece."""

    def __init__(self, networks: FantasyPortraitNetworks) -> None:
        self._networks = networks
        self._smoother = PointSmoother()
        self._points: NDArray[np.complex128] | None = None
        self._size = 0.0

    def track(self, frames: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float64]:
        """The five points as these networks see them.

        Args:
            frames: (T, H, W, 3) RGB, the next of the video.
            points: (T, 5, 2) pixels, which tell the face among others; NaN where it is not seen.

        Returns:
            (T, 5, 2) pixels; NaN where `points` has it or these networks see no face there.
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
        look = self._networks.landmarks.predict(frame, crop)
        if look.probability < MIN_FACE_PROBABILITY:
            self._points = None
            return
        self._points = self._smoother.smooth(look.points, self._size)
        first, last = self._points[list(JAW_ENDS)]
        turned = np.rad2deg(abs(look.pitch) + 0.6 * abs(look.yaw))
        self._size = max(1.0, float(abs(first - last)) * (1 + turned / 18))

    def _initialize(self, frame: NDArray[np.uint8], point: complex) -> NDArray[np.float64] | None:
        """Where the face is, as the landmarks within the detected box have it; None where nothing is detected."""
        self._points, self._smoother = None, PointSmoother()
        box = self._networks.detector.detect_at(frame, point)
        if box is None:
            return None
        look = self._networks.landmarks.predict(frame, crop_from_box(box))
        if look.probability < MIN_FACE_PROBABILITY:
            return None
        box = bounding_box(look.points)
        self._size = max(1.0, float(np.hypot(box[2] - box[0], box[3] - box[1])))
        return box


def _contains(point: complex, box: NDArray[np.float64]) -> bool:
    return bool(box[0] <= point.real <= box[2] and box[1] <= point.imag <= box[3])

"""Faces as FantasyPortrait's front end finds them: its detector and its landmark network, along a video.

Who is followed is told by points that are known of the face. Where the published code has every picture's detections
compete with what it follows, a face is followed here until the network no longer believes in it; and faces below 96
pixels, which the published code drops, are kept.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.fantasy_portrait.detector import ReleasedDetector
from fantasytalking.encoders.fantasy_portrait.landmarks import (
    JAW_ENDS,
    PointSmoother,
    ReleasedLandmarks,
    box_of,
    crop_of_box,
    crop_of_points,
    eye_angle,
)

DETECTOR, LANDMARKS = "face_det.onnx", "face_landmark.onnx"
FIVE = [182, 202, 36, 149, 133]
"""Left eye, right eye, tip of the nose, left and right corner of the mouth among the 222."""
LEAST_PROBABILITY = 1e-4
_HALF = 0.5 + 0.5j
"""From OpenCV's coordinates to those that count from the picture's edge."""


class ReleasedFaces:
    """The two networks."""

    def __init__(self, detector: ReleasedDetector, landmarks: ReleasedLandmarks) -> None:
        self.detector, self.landmarks = detector, landmarks

    @classmethod
    def of_folder(cls, folder: Path) -> "ReleasedFaces | None":
        """The networks of face_det.onnx and face_landmark.onnx in a folder; None where it holds neither.

        Raises:
            InputError: it holds one of them, or one is damaged or another network.
        """
        there = [name for name in (DETECTOR, LANDMARKS) if (folder / name).is_file()]
        if not there:
            return None
        if len(there) == 1:
            raise InputError(f"'{folder}' holds {there[0]} alone; {DETECTOR} and {LANDMARKS} go together")
        detector = ReleasedDetector.from_pretrained(folder / DETECTOR)
        return cls(detector, ReleasedLandmarks.from_pretrained(folder / LANDMARKS))


class FaceFollower:
    """One face through a video, which may come piece by piece."""

    def __init__(self, faces: ReleasedFaces) -> None:
        self._faces = faces
        self._smoother = PointSmoother()
        self._points: NDArray[np.complex128] | None = None
        self._size = 0.0

    def follow(self, frames: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float64]:
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
            self._step(frame, complex(*known.mean(axis=0)) - _HALF)
            if self._points is not None:
                five = self._points[FIVE] + _HALF
                found[number] = np.stack([five.real, five.imag], axis=1)
        return found

    def _step(self, frame: NDArray[np.uint8], place: complex) -> None:
        if self._points is None or not _within(place, box_of(self._points)):
            box = self._begin(frame, place)
            if box is None:
                return
            crop = crop_of_box(box)
        else:
            crop = crop_of_points(self._points, eye_angle(self._points))
        look = self._faces.landmarks.find(frame, crop)
        if look.probability < LEAST_PROBABILITY:
            self._points = None
            return
        self._points = self._smoother.smooth(look.points, self._size)
        first, last = self._points[list(JAW_ENDS)]
        turned = np.rad2deg(abs(look.pitch) + 0.6 * abs(look.yaw))
        self._size = max(1.0, float(abs(first - last)) * (1 + turned / 18))

    def _begin(self, frame: NDArray[np.uint8], place: complex) -> NDArray[np.float64] | None:
        """Where the face is, as the landmarks within the detected box have it; None where nothing is detected."""
        self._points, self._smoother = None, PointSmoother()
        box = self._faces.detector.around(frame, place)
        if box is None:
            return None
        look = self._faces.landmarks.find(frame, crop_of_box(box))
        if look.probability < LEAST_PROBABILITY:
            return None
        box = box_of(look.points)
        self._size = max(1.0, float(np.hypot(box[2] - box[0], box[3] - box[1])))
        return box


def _within(place: complex, box: NDArray[np.float64]) -> bool:
    return bool(box[0] <= place.real <= box[2] and box[1] <= place.imag <= box[3])

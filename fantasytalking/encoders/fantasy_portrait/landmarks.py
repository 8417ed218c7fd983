"""Runs the landmark network of FantasyPortrait's front end (face_landmark.onnx): 222 points of a face in a crop.

Crop, points and smoothing are those of the published inference code. Points are complex numbers x + iy in OpenCV's
coordinates, which are relative to the center of the first pixel.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.onnx_file import read_onnx

LANDMARK_CROP_SIZE = 128
NUM_LANDMARKS = 222
LANDMARK_CROP_MARGIN = 0.15
"""Fraction of the crop that is padding along the larger side of the face."""
REFINEMENT_PASSES = 3
"""Number of passes per frame, each with a crop around the points of the previous pass."""
EYE_CORNERS = (74, 96)
JAW_ENDS = (0, 32)
_FREE_MOTION = 0.02
"""Motion, in face sizes, from which a group of points is smoothed least."""


class LandmarkCrop(NamedTuple):
    """Maps a point z of the image to `scale_rotation` * z + `translation` of the crop."""

    scale_rotation: complex
    translation: complex


class LandmarkPrediction(NamedTuple):
    """Prediction of the network for a crop."""

    points: NDArray[np.complex128]
    """(222,) pixels of the image."""
    pitch: float
    """Radians."""
    yaw: float
    """Radians."""
    probability: float
    """Probability of a face, [0, 1]."""


class FantasyPortraitLandmarks:
    """Predicts the points of a face.

    Args:
        session: the onnxruntime session of the network.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    @classmethod
    def from_pretrained(cls, path: Path, threads: int = 1) -> "FantasyPortraitLandmarks":
        """Loads the network of the file `path`; it runs on the CPU with `threads` threads.

        Raises:
            InputError: the file is missing, damaged, or another network.
        """
        cure = "give FantasyPortrait's face_landmark.onnx"
        file = read_onnx(path, "landmark network", cure)
        if [shape[1:] for shape in file.inputs] != [[3, LANDMARK_CROP_SIZE, LANDMARK_CROP_SIZE]] or len(
            file.outputs
        ) != 3:
            raise InputError(
                f"landmark network '{path}' maps {file.inputs} to {len(file.outputs)} outputs; it must map one "
                f"(1, 3, {LANDMARK_CROP_SIZE}, {LANDMARK_CROP_SIZE}) to 3; {cure}",
                code=ErrorCode.shape_mismatch,
                field="landmark network",
                value=(file.inputs, len(file.outputs)),
            )
        network = cls(file.create_session(threads))
        points, angles, probability = network._run(np.zeros((LANDMARK_CROP_SIZE, LANDMARK_CROP_SIZE, 3), np.uint8))
        if points.size != 2 * NUM_LANDMARKS or angles.ndim != 2 or angles.size < 2 or probability.size < 1:
            raise InputError(
                f"landmark network '{path}' has {points.size} coordinates and {angles.size} angles; it must have "
                f"{2 * NUM_LANDMARKS} and 3; {cure}",
                code=ErrorCode.shape_mismatch,
                field="landmark network",
                value=(points.size, angles.size),
            )
        return network

    def predict(self, frame: NDArray[np.uint8], crop: LandmarkCrop) -> LandmarkPrediction:
        """Returns the face in a crop of an RGB image (H, W, 3), in coordinates of the image."""
        bgr = np.ascontiguousarray(frame[:, :, ::-1])
        for _ in range(REFINEMENT_PASSES):
            a, b = crop.scale_rotation, crop.translation
            matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
            coordinates, angles, probability = self._run(
                cv2.warpAffine(bgr, matrix, (LANDMARK_CROP_SIZE, LANDMARK_CROP_SIZE))
            )
            x, y = coordinates.reshape(2, NUM_LANDMARKS).astype(np.float64) * LANDMARK_CROP_SIZE
            crop_points = x + 1j * y
            points = (crop_points - b) / a
            # As released: the next crop is rotated by the eye angle in this crop, not in the image.
            crop = crop_from_points(points, eye_angle(crop_points))
        pitch, yaw = (float(angle) for angle in angles[0, :2])
        return LandmarkPrediction(points, pitch, yaw, float(probability.ravel()[0]))

    def _run(self, bgr: NDArray[Any]) -> list[NDArray[np.float32]]:
        levels = (bgr.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: levels})
        return outputs


def eye_angle(points: NDArray[np.complex128]) -> float:
    """Returns the angle of the line through the outer corners of the eyes, in radians."""
    left, right = points[list(EYE_CORNERS)]
    return float(np.angle(right - left + 1e-8))


def bounding_box(points: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Returns (4,) x0, y0, x1, y1 around points."""
    return np.array([points.real.min(), points.imag.min(), points.real.max(), points.imag.max()])


def crop_from_box(box: NDArray[np.floating]) -> LandmarkCrop:
    """Returns the upright crop around a box (4,)."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return crop_from_points(np.array([x0 + 1j * y0, x1 + 1j * y1]), 0.0)


def crop_from_points(points: NDArray[np.complex128], angle: float) -> LandmarkCrop:
    """Returns the crop around points in which a line of this angle (radians) is horizontal."""
    rotation = np.exp(-1j * angle)
    x0, y0, x1, y1 = bounding_box(points * rotation)
    scale = LANDMARK_CROP_SIZE * (1 - LANDMARK_CROP_MARGIN) / max(x1 - x0, y1 - y0, 1e-6)
    return LandmarkCrop(
        complex(scale * rotation), complex(LANDMARK_CROP_SIZE / 2 * (1 + 1j) - scale * (x0 + x1 + 1j * (y0 + y1)) / 2)
    )


class SmoothingGroup(NamedTuple):
    """Points that are smoothed together, less the more they move."""

    points: range
    """Indices of the points."""
    motion_points: range
    """Indices of the points whose motion counts."""
    still_motion: float
    """Motion, in face sizes, below which the cutoff decreases linearly to 0."""
    still_cutoff: float
    """Cutoff at `still_motion`."""
    free_cutoff: float
    """Cutoff from `_FREE_MOTION` on."""


SMOOTHING_GROUPS = (
    SmoothingGroup(range(33), range(9, 24), 0.005, 0.05, 0.3),  # jaw
    *(SmoothingGroup(points, points, 0.003, 0.03, 0.7) for points in (range(33, 48), range(74, 96), range(96, 118))),
    SmoothingGroup(range(48, 74), range(48, 74), 0.003, 0.02, 0.5),  # brows
    SmoothingGroup(range(118, 182), range(118, 182), 0.003, 0.05, 0.7),  # mouth
    *(SmoothingGroup(points, points, 0.003, 0.03, 0.7) for points in (range(182, 202), range(202, 222))),  # pupils
)


@dataclass
class PointSmoother:
    """A One-Euro filter (Casiez et al., CHI 2012) for each group of points, with the cutoffs of the published code."""

    _previous: NDArray[np.float64] | None = None
    _speeds: NDArray[np.float64] = field(default_factory=lambda: np.zeros((NUM_LANDMARKS, 2)))

    def smooth(self, points: NDArray[np.complex128], face_size: float) -> NDArray[np.complex128]:
        """Smooths the next points (222,) of a face of `face_size` pixels."""
        values = np.stack([points.real, points.imag], axis=1)
        if self._previous is not None:
            moved = np.hypot(*(values - self._previous).T) / face_size
            for group in SMOOTHING_GROUPS:
                own = slice(group.points.start, group.points.stop)
                cutoff = _cutoff(group, float(moved[group.motion_points.start : group.motion_points.stop].mean()))
                parts = values[own], self._previous[own], self._speeds[own]
                values[own], self._speeds[own] = _filter_step(*parts, cutoff)
        self._previous = values
        smooth: NDArray[np.complex128] = values[:, 0] + 1j * values[:, 1]
        return smooth


def _cutoff(group: SmoothingGroup, motion: float) -> float:
    if motion < group.still_motion:
        return group.still_cutoff * motion / group.still_motion
    weight = min(1.0, (motion - group.still_motion) / (_FREE_MOTION - group.still_motion))
    return group.still_cutoff + (group.free_cutoff - group.still_cutoff) * weight


def _filter_step(
    value: NDArray[np.float64], previous: NDArray[np.float64], speed: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the next smoothed value and speed; the cutoff is also the time step and the weight of the speed."""
    if cutoff == 0:
        return previous, speed
    weight = _smoothing_factor(cutoff, 1.0)
    speed = weight * (value - previous) / cutoff + (1 - weight) * speed
    own = _smoothing_factor(cutoff, 1.0 + cutoff * np.abs(speed))
    return own * value + (1 - own) * previous, speed


def _smoothing_factor(time: float, cutoff: Any) -> Any:
    radians = 2 * np.pi * cutoff * time
    return radians / (radians + 1)

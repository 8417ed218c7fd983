"""The landmark network of FantasyPortrait's front end (face_landmark.onnx): 222 points of a face in a small crop.

Facts of it (crop, points, smoothing) are those of the published inference code. Points of the plane are complex
numbers, x + iy, as OpenCV counts them: from the first pixel's centre.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.onnx import read_onnx

SIZE = 128
COUNT = 222
MARGIN = 0.15
"""Part of the crop that is left beside the larger side of the face."""
LOOKS = 3
"""At each picture, each time through a crop around the points that the last look found."""
EYE_CORNERS = (74, 96)
JAW_ENDS = (0, 32)
_START = 0.02
"""Movement, in sizes of the face, from which a group of points is smoothed least."""


class LandmarkCrop(NamedTuple):
    """A point z of the picture is turn z + shift of the crop."""

    turn: complex
    shift: complex


class Look(NamedTuple):
    """What the network sees in a crop."""

    points: NDArray[np.complex128]
    """(222,)."""
    pitch: float
    """Radians, as yaw."""
    yaw: float
    probability: float
    """That there is a face."""


class ReleasedLandmarks:
    """Points of a face in a picture."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    @classmethod
    def from_pretrained(cls, path: Path, threads: int = 1) -> "ReleasedLandmarks":
        """The network of the file `path`.

        Raises:
            InputError: the file is missing, damaged, or not such a network.
        """
        cure = "give FantasyPortrait's face_landmark.onnx"
        file = read_onnx(path, "landmark network", cure)
        if [shape[1:] for shape in file.inputs] != [[3, SIZE, SIZE]] or len(file.outputs) != 3:
            raise InputError(
                f"landmark network '{path}' maps {file.inputs} to {len(file.outputs)} output(s), not one "
                f"(1, 3, {SIZE}, {SIZE}) to 3; {cure}"
            )
        network = cls(file.open(threads))
        points, angles, probability = network._run(np.zeros((SIZE, SIZE, 3), np.uint8))
        if points.size != 2 * COUNT or angles.ndim != 2 or angles.size < 2 or probability.size < 1:
            raise InputError(
                f"landmark network '{path}' gives {points.size} coordinates and {angles.size} angles, not "
                f"{2 * COUNT} and 3; {cure}"
            )
        return network

    def find(self, frame: NDArray[np.uint8], crop: LandmarkCrop) -> Look:
        """The face that a crop of an RGB picture (H, W, 3) is about, in the picture's coordinates."""
        bgr = np.ascontiguousarray(frame[:, :, ::-1])
        for _ in range(LOOKS):
            a, b = crop.turn, crop.shift
            matrix = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
            coordinates, angles, probability = self._run(cv2.warpAffine(bgr, matrix, (SIZE, SIZE)))
            x, y = coordinates.reshape(2, COUNT).astype(np.float64) * SIZE
            seen = x + 1j * y
            points = (seen - b) / a
            # As released: the next crop is turned by the eyes of this one, not of the picture.
            crop = crop_of_points(points, eye_angle(seen))
        pitch, yaw = (float(angle) for angle in angles[0, :2])
        return Look(points, pitch, yaw, float(probability.ravel()[0]))

    def _run(self, bgr: NDArray[Any]) -> list[NDArray[np.float32]]:
        levels = (bgr.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        answer: list[NDArray[np.float32]] = self._session.run(None, {self._input: levels})
        return answer


def eye_angle(points: NDArray[np.complex128]) -> float:
    """Of the line through the eyes' outer corners, in radians."""
    left, right = points[list(EYE_CORNERS)]
    return float(np.angle(right - left + 1e-8))


def box_of(points: NDArray[np.complex128]) -> NDArray[np.float64]:
    """(4,) x0, y0, x1, y1 around points."""
    return np.array([points.real.min(), points.imag.min(), points.real.max(), points.imag.max()])


def crop_of_box(box: NDArray[np.floating]) -> LandmarkCrop:
    """The upright crop around a box (4,)."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return crop_of_points(np.array([x0 + 1j * y0, x1 + 1j * y1]), 0.0)


def crop_of_points(points: NDArray[np.complex128], angle: float) -> LandmarkCrop:
    """The crop around points in which a line of this angle is level."""
    turn = np.exp(-1j * angle)
    x0, y0, x1, y1 = box_of(points * turn)
    scale = SIZE * (1 - MARGIN) / max(x1 - x0, y1 - y0, 1e-6)
    return LandmarkCrop(complex(scale * turn), complex(SIZE / 2 * (1 + 1j) - scale * (x0 + x1 + 1j * (y0 + y1)) / 2))


class Group(NamedTuple):
    """Points that are smoothed as one, the less the more they move."""

    points: range
    judged: range
    """By whose movement."""
    still: float
    """Movement up to which they are held more and more, in sizes of the face."""
    held: float
    """Cutoff at that movement."""
    free: float
    """Cutoff from `_START` on."""


GROUPS = (
    Group(range(33), range(9, 24), 0.005, 0.05, 0.3),  # jaw
    *(Group(points, points, 0.003, 0.03, 0.7) for points in (range(33, 48), range(74, 96), range(96, 118))),
    Group(range(48, 74), range(48, 74), 0.003, 0.02, 0.5),  # brows
    Group(range(118, 182), range(118, 182), 0.003, 0.05, 0.7),  # mouth
    *(Group(points, points, 0.003, 0.03, 0.7) for points in (range(182, 202), range(202, 222))),  # pupils
)


@dataclass
class PointSmoother:
    """A One-Euro filter (Casiez et al., CHI 2012) for each group of points, with the cutoffs of the published code."""

    _before: NDArray[np.float64] | None = None
    _speeds: NDArray[np.float64] = field(default_factory=lambda: np.zeros((COUNT, 2)))

    def smooth(self, points: NDArray[np.complex128], size: float) -> NDArray[np.complex128]:
        """The next points (222,) of a face of this size in pixels."""
        values = np.stack([points.real, points.imag], axis=1)
        if self._before is not None:
            moved = np.hypot(*(values - self._before).T) / size
            for group in GROUPS:
                own = slice(group.points.start, group.points.stop)
                cutoff = _cutoff(group, float(moved[group.judged.start : group.judged.stop].mean()))
                parts = values[own], self._before[own], self._speeds[own]
                values[own], self._speeds[own] = _filtered(*parts, cutoff)
        self._before = values
        smooth: NDArray[np.complex128] = values[:, 0] + 1j * values[:, 1]
        return smooth


def _cutoff(group: Group, moved: float) -> float:
    if moved < group.still:
        return group.held * moved / group.still
    share = min(1.0, (moved - group.still) / (_START - group.still))
    return group.held + (group.free - group.held) * share


def _filtered(
    value: NDArray[np.float64], before: NDArray[np.float64], speed: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The next smoothed value and speed; the cutoff is also the time between and the weight of the speed."""
    if cutoff == 0:
        return before, speed
    weight = _weight(cutoff, 1.0)
    speed = weight * (value - before) / cutoff + (1 - weight) * speed
    own = _weight(cutoff, 1.0 + cutoff * np.abs(speed))
    return own * value + (1 - own) * before, speed


def _weight(time: float, cutoff: Any) -> Any:
    radians = 2 * np.pi * cutoff * time
    return radians / (radians + 1)

"""The face detector of FantasyPortrait's front end (face_det.onnx): a NanoDet of one class.

Facts of it (input, levels, thresholds) are those of the published inference code and of NanoDet
(github.com/RangiLyu/nanodet). Coordinates are OpenCV's, which count from the first pixel's centre.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.onnx_file import read_onnx

DETECTOR_HEIGHT, DETECTOR_WIDTH = 272, 160
_STRIDES = (8, 16, 32)
_DISTANCE_BINS = 8
"""A side's distance from the place is a distribution over 0 to 7 strides."""
_MEAN, _STD = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
"""Of BGR levels."""
MIN_DETECTION_SCORE = 0.4


class FantasyPortraitDetector:
    """Boxes of faces."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._anchors = [_anchor_points(stride) for stride in _STRIDES]

    @classmethod
    def from_pretrained(cls, path: Path, threads: int = 1) -> "FantasyPortraitDetector":
        """The network of the file `path`.

        Raises:
            InputError: the file is missing, damaged, or not such a network.
        """
        cure = "give FantasyPortrait's face_det.onnx"
        file = read_onnx(path, "face detector", cure)
        if [shape[1:] for shape in file.inputs] != [[3, DETECTOR_HEIGHT, DETECTOR_WIDTH]]:
            raise InputError(
                f"face detector '{path}' takes {file.inputs}, not one (1, 3, {DETECTOR_HEIGHT}, {DETECTOR_WIDTH}); "
                f"{cure}"
            )
        detector = cls(file.create_session(threads))
        found = [part.size for part in detector._run(np.zeros((DETECTOR_HEIGHT, DETECTOR_WIDTH, 3), np.uint8))]
        counts = [len(places) for places in detector._anchors]
        wanted = [*counts, *(4 * _DISTANCE_BINS * count for count in counts)]
        if found != wanted:
            raise InputError(f"face detector '{path}' gives {found} numbers, not {wanted}; {cure}")
        return detector

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Faces of an RGB picture (H, W, 3) before overlapping ones are left out: (N, 5) x0, y0, x1, y1, score."""
        height, width = frame.shape[:2]
        scale = min(DETECTOR_WIDTH / width, DETECTOR_HEIGHT / height)
        shift = np.array([DETECTOR_WIDTH - scale * width, DETECTOR_HEIGHT - scale * height]) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        bgr = np.ascontiguousarray(frame[:, :, ::-1])
        answer = self._run(cv2.warpAffine(bgr, matrix, (DETECTOR_WIDTH, DETECTOR_HEIGHT)))
        levels = len(_STRIDES)
        scores = np.concatenate([part.ravel() for part in answer[:levels]])
        read = zip(answer[levels:], self._anchors, _STRIDES, strict=True)
        boxes = np.concatenate([_decode_boxes(distances, places, stride) for distances, places, stride in read])
        boxes = (boxes - np.tile(shift, 2)) / scale
        boxes = boxes.clip(0, np.array([width, height, width, height])).astype(np.int32)
        found = scores > MIN_DETECTION_SCORE
        return np.concatenate([boxes[found], scores[found, None]], axis=1)

    def detect_at(self, frame: NDArray[np.uint8], point: complex) -> NDArray[np.float64] | None:
        """The likeliest face (4,) around a place x + iy of the picture; None where there is none."""
        faces = self.detect(frame)
        x, y = point.real, point.imag
        around = (faces[:, 0] <= x) & (x <= faces[:, 2]) & (faces[:, 1] <= y) & (y <= faces[:, 3])
        if not around.any():
            return None
        here = faces[around]
        best: NDArray[np.float64] = here[here[:, 4].argmax(), :4]
        return best

    def _run(self, bgr: NDArray[Any]) -> list[NDArray[np.float32]]:
        normalised = ((bgr - _MEAN) / _STD).astype(np.float32)
        answer: list[NDArray[np.float32]] = self._session.run(None, {self._input: normalised.transpose(2, 0, 1)[None]})
        return answer


def _anchor_points(stride: int) -> NDArray[np.int64]:
    """(N, 2) x and y of a level's places, row by row; the last row of the coarsest reaches beyond the picture."""
    rows, columns = np.meshgrid(
        np.arange(0, DETECTOR_HEIGHT, stride), np.arange(0, DETECTOR_WIDTH, stride), indexing="ij"
    )
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _decode_boxes(distances: NDArray[np.float32], anchors: NDArray[np.int64], stride: int) -> NDArray[np.float64]:
    """(N, 4) from the logits of how far left, up, right and down of its place each box reaches."""
    logits = distances.reshape(len(anchors), 4, _DISTANCE_BINS).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    reach = stride * (weights * np.arange(_DISTANCE_BINS)).sum(axis=-1) / weights.sum(axis=-1)
    return np.concatenate([anchors - reach[:, :2], anchors + reach[:, 2:]], axis=1)

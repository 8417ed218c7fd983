"""Runs the face detector of FantasyPortrait's front end (face_det.onnx): a NanoDet with one class.

Input, levels and thresholds are those of the published inference code and of NanoDet (github.com/RangiLyu/nanodet).
Coordinates are OpenCV's, which are relative to the center of the first pixel.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.onnx_file import read_onnx

DETECTOR_HEIGHT, DETECTOR_WIDTH = 272, 160
_STRIDES = (8, 16, 32)
_DISTANCE_BINS = 8
"""The distance of a side from its anchor is a distribution over 0 to 7 strides."""
_MEAN, _STD = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
"""Mean and standard deviation of the BGR levels."""
MIN_DETECTION_SCORE = 0.4


class FantasyPortraitDetector:
    """Detects faces.

    Args:
        session: the onnxruntime session of the network.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._anchors = [_anchor_points(stride) for stride in _STRIDES]

    @classmethod
    def from_pretrained(cls, path: Path, threads: int = 1) -> "FantasyPortraitDetector":
        """Loads the network of the file `path`; it runs on the CPU with `threads` threads.

        Raises:
            InputError: the file is missing, damaged, or another network.
        """
        cure = "give FantasyPortrait's face_det.onnx"
        file = read_onnx(path, "face detector", cure)
        if [shape[1:] for shape in file.inputs] != [[3, DETECTOR_HEIGHT, DETECTOR_WIDTH]]:
            raise InputError(
                f"face detector '{path}' has the inputs {file.inputs}; it must have one "
                f"(1, 3, {DETECTOR_HEIGHT}, {DETECTOR_WIDTH}); {cure}",
                code=ErrorCode.shape_mismatch,
                field="face detector",
                value=file.inputs,
            )
        detector = cls(file.create_session(threads))
        found = [part.size for part in detector._run(np.zeros((DETECTOR_HEIGHT, DETECTOR_WIDTH, 3), np.uint8))]
        counts = [len(anchors) for anchors in detector._anchors]
        wanted = [*counts, *(4 * _DISTANCE_BINS * count for count in counts)]
        if found != wanted:
            raise InputError(
                f"face detector '{path}' has outputs of {found} numbers; they must have {wanted}; {cure}",
                code=ErrorCode.shape_mismatch,
                field="face detector",
                value=found,
            )
        return detector

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the faces of an RGB image (H, W, 3), with overlapping ones: (N, 5) x0, y0, x1, y1, score."""
        height, width = frame.shape[:2]
        scale = min(DETECTOR_WIDTH / width, DETECTOR_HEIGHT / height)
        shift = np.array([DETECTOR_WIDTH - scale * width, DETECTOR_HEIGHT - scale * height]) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        bgr = np.ascontiguousarray(frame[:, :, ::-1])
        outputs = self._run(cv2.warpAffine(bgr, matrix, (DETECTOR_WIDTH, DETECTOR_HEIGHT)))
        levels = len(_STRIDES)
        scores = np.concatenate([part.ravel() for part in outputs[:levels]])
        box_levels = zip(outputs[levels:], self._anchors, _STRIDES, strict=True)
        boxes = np.concatenate([_decode_boxes(distances, anchors, stride) for distances, anchors, stride in box_levels])
        boxes = (boxes - np.tile(shift, 2)) / scale
        boxes = boxes.clip(0, np.array([width, height, width, height])).astype(np.int32)
        found = scores > MIN_DETECTION_SCORE
        return np.concatenate([boxes[found], scores[found, None]], axis=1)

    def detect_at(self, frame: NDArray[np.uint8], point: complex) -> NDArray[np.float64] | None:
        """Returns the face (4,) with the highest score around a point x + iy of the image; None without one."""
        faces = self.detect(frame)
        x, y = point.real, point.imag
        around = (faces[:, 0] <= x) & (x <= faces[:, 2]) & (faces[:, 1] <= y) & (y <= faces[:, 3])
        if not around.any():
            return None
        candidates = faces[around]
        best: NDArray[np.float64] = candidates[candidates[:, 4].argmax(), :4]
        return best

    def _run(self, bgr: NDArray[Any]) -> list[NDArray[np.float32]]:
        normalized = ((bgr - _MEAN) / _STD).astype(np.float32)
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: normalized.transpose(2, 0, 1)[None]})
        return outputs


def _anchor_points(stride: int) -> NDArray[np.int64]:
    """Returns (N, 2) x and y of a level's anchors, row by row; the last row of the coarsest exceeds the image."""
    rows, columns = np.meshgrid(
        np.arange(0, DETECTOR_HEIGHT, stride), np.arange(0, DETECTOR_WIDTH, stride), indexing="ij"
    )
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _decode_boxes(distances: NDArray[np.float32], anchors: NDArray[np.int64], stride: int) -> NDArray[np.float64]:
    """Returns (N, 4) boxes from the logits of the distances left, up, right and down of their anchors."""
    logits = distances.reshape(len(anchors), 4, _DISTANCE_BINS).astype(np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    reach = stride * (weights * np.arange(_DISTANCE_BINS)).sum(axis=-1) / weights.sum(axis=-1)
    return np.concatenate([anchors - reach[:, :2], anchors + reach[:, 2:]], axis=1)

"""What SyncNet sees and hears of a clip: 25 crops a second around the lower face, and the sound's cepstra.

The crop is that of its authors' pipeline (github.com/joonson/syncnet_python, run_pipeline.py), with the box around
MediaPipe's landmarks (hairline to chin, temple to temple) in place of their face detector's.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.networks.syncnet_model import SYNCNET_SIZE

SYNCNET_FPS = 25.0
SAMPLES_PER_FRAME = 640
_SMOOTHING_FRAMES = 13
"""Frames of the median filter over the box's place and size."""
_BORDER_GRAY = 110
"""Grey level beyond the picture's edges."""
_ABOVE, _BELOW, _SIDEWAYS = 1.0, 1.8, 1.4


def nearest_frame_indices(clip: EvaluationClip) -> NDArray[np.int64]:
    """Indices of the frames nearest to k / 25 s: all of them, in order, for a clip of 25 frames a second."""
    count = round(len(clip.frames) / clip.fps * SYNCNET_FPS)
    wanted = np.arange(count) / SYNCNET_FPS
    # Rounded, so that of two frames equally near the earlier one is always taken.
    return np.abs(clip.times[None, :] - wanted[:, None]).round(6).argmin(axis=1)


def syncnet_crops(clip: EvaluationClip) -> NDArray[np.uint8]:
    """(F, 224, 224, 3) BGR at 25 frames a second; with s = half the larger side of the face's box (x, y its centre),
    rows y - s to y + 1.8 s and columns x - 1.4 s to x + 1.4 s. Needs a clip that `has_face`.

    Place and size pass a median filter of 13 frames; where the face is not known they are interpolated.
    """
    chosen = nearest_frame_indices(clip)
    boxes = _interpolate_boxes(clip.track.boxes.astype(np.float64), clip.times)[chosen]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    values = median_filter(np.column_stack([centre, half]), size=(_SMOOTHING_FRAMES, 1), mode="nearest")
    return np.stack([_crop(clip.frames[index], *place) for index, place in zip(chosen, values.tolist(), strict=True)])


def to_int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """(S,) in [-1, 1] to 16-bit samples."""
    return np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)


def _interpolate_boxes(boxes: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(boxes).all(axis=1)
    return np.stack([np.interp(times, times[known], column[known]) for column in boxes.T], axis=1)


def _crop(frame: NDArray[np.uint8], x: float, y: float, half: float) -> NDArray[np.uint8]:
    edge = int(half * _BELOW)
    padded = cv2.copyMakeBorder(frame, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(_BORDER_GRAY,) * 3)
    x, y = x + edge, y + edge
    top, left = max(0, int(y - _ABOVE * half)), max(0, int(x - _SIDEWAYS * half))
    part = padded[top : int(y + _BELOW * half), left : int(x + _SIDEWAYS * half), ::-1]
    return np.asarray(cv2.resize(np.ascontiguousarray(part), (SYNCNET_SIZE, SYNCNET_SIZE)), np.uint8)

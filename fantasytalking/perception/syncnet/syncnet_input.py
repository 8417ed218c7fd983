"""Inputs of SyncNet: crops around the lower face at 25 frames per second, and 16-bit samples.

The crop is that of the authors' pipeline (github.com/joonson/syncnet_python, run_pipeline.py), with the box around
MediaPipe's landmarks (hairline to chin, temple to temple) in place of the box of their face detector.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.syncnet.syncnet_model import SYNCNET_SIZE, SYNCNET_WINDOW_FRAMES

SYNCNET_FPS = 25.0
SAMPLES_PER_FRAME = 640
_SMOOTHING_FRAMES = 13
"""Length in frames of the median filter of the box's position and size."""
_BORDER_GRAY = 110
"""Gray level beyond the edges of the image."""
_ABOVE, _BELOW, _SIDEWAYS = 1.0, 1.8, 1.4


def count_windows(frames: int, fps: float, samples: int) -> int:
    """Returns min(frames at 25 per second, samples // 640) - 5, as the authors count windows; below 1 there is none."""
    return min(round(frames / fps * SYNCNET_FPS), samples // SAMPLES_PER_FRAME) - SYNCNET_WINDOW_FRAMES


def nearest_frame_indices(times: NDArray[np.floating], fps: float) -> NDArray[np.int64]:
    """Returns the indices of the frames at (T,) `times` nearest to k / 25 s: all frames if `fps` is 25."""
    wanted = np.arange(round(len(times) / fps * SYNCNET_FPS)) / SYNCNET_FPS
    # Rounded, so that the earlier of two equally near frames is always chosen.
    return np.abs(times[None, :] - wanted[:, None]).round(6).argmin(axis=1)


def syncnet_crops(
    frames: NDArray[np.uint8], times: NDArray[np.floating], fps: float, track: FaceTrack
) -> NDArray[np.uint8]:
    """Returns (F, 224, 224, 3) BGR crops at 25 frames per second.

    With (x, y) the center of the face's box and s half of its larger side, a crop has the rows y - s to y + 1.8 s and
    the columns x - 1.4 s to x + 1.4 s. Position and size are smoothed by a median filter of 13 frames, and interpolated
    where the face is not known.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        times: (T,) seconds.
        fps: frames per second.
        track: the face, known in some of these frames.
    """
    chosen = nearest_frame_indices(times, fps)
    boxes = _interpolate_boxes(track.boxes.astype(np.float64), times)[chosen]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / 2
    values = median_filter(np.column_stack([center, half]), size=(_SMOOTHING_FRAMES, 1), mode="nearest")
    return np.stack([_crop(frames[index], *square) for index, square in zip(chosen, values.tolist(), strict=True)])


def to_int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Returns 16-bit samples of a (S,) waveform in [-1, 1]."""
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

"""Measures how the camera moves, by points of the background that are followed from frame to frame."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.perception.face_track import FaceTrack

_HEIGHT = 144
_STEP_SECONDS = 0.16
_MAX_POINTS, _MIN_POINTS = 60, 6
_QUALITY, _DISTANCE = 0.02, 4
_ABOVE, _SIDES = 0.3, 0.65
"""Area around a face that counts as the person, in face heights; everything below a chin counts as a body."""


def camera_motion(frames: NDArray[np.uint8], tracks: Sequence[FaceTrack]) -> float:
    """Returns the mean speed of the background in frame heights per second.

    The motion from frame to frame is the median over the points that could be followed. NaN if the background has too
    few of them, as a plain wall.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        tracks: the people, in pixels of these frames.
    """
    height, width = frames.shape[1:3]
    scale = min(1.0, _HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    mask = _background(tracks, height, width)
    background = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    times = tracks[0].times
    step = max(1, round(_STEP_SECONDS / float(np.diff(times).mean()))) if len(times) > 1 else 1
    images = [_gray(frame, size) for frame in frames[::step]]
    speeds = [
        _shift(before, after, background) / size[1] / seconds
        for before, after, seconds in zip(images, images[1:], np.diff(times[::step]).tolist(), strict=False)
    ]
    known = [speed for speed in speeds if np.isfinite(speed)]
    return float(np.mean(known)) if len(known) >= max(1, len(speeds) // 2) else float("nan")


def _background(tracks: Sequence[FaceTrack], height: int, width: int) -> NDArray[np.uint8]:
    """Returns (height, width) 1 where there is no person."""
    mask = np.ones((height, width), np.uint8)
    chins = []
    for track in tracks:
        left, top, right, bottom = np.nanmedian(track.boxes[track.known], axis=0).tolist()
        size, center = bottom - top, (left + right) / 2
        columns = slice(max(0, int(center - _SIDES * size)), max(0, int(center + _SIDES * size)))
        mask[max(0, int(top - _ABOVE * size)) :, columns] = 0
        chins.append(bottom)
    mask[max(0, int(min(chins))) :] = 0
    return mask


def _shift(before: NDArray[np.uint8], after: NDArray[np.uint8], background: NDArray[np.uint8]) -> float:
    points = cv2.goodFeaturesToTrack(before, _MAX_POINTS, _QUALITY, _DISTANCE, mask=background)
    if points is None or len(points) < _MIN_POINTS:
        return float("nan")
    moved, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, points.copy(), winSize=(11, 11), maxLevel=2)
    found = (moved - points)[status[:, 0] > 0].reshape(-1, 2)
    return float(np.linalg.norm(np.median(found, axis=0))) if len(found) >= _MIN_POINTS else float("nan")


def _gray(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)

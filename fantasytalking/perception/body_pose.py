"""Tracks the body joints of a video with MediaPipe Pose (complexity 1)."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.mediapipe_graphs import NUM_BODY_JOINTS, create_body_pose

# Every frame without a body costs a detection; after this many in a row, frames are skipped.
_MAX_CONSECUTIVE_MISSES, _SKIPPED_FRAMES = 5, 4


class BodyTrack(NamedTuple):
    """The joints of the most prominent person over T frames."""

    times: np.ndarray
    """(T,) float64 seconds."""
    joints: np.ndarray
    """(T, 33, 3) float32 pixels, z also in pixels (0 at the hips); NaN where no body was found."""
    visibility: np.ndarray
    """(T, 33) float32 in [0, 1]; joints outside the image are guessed and have values near 0."""


def track_body(frames: Iterable[tuple[float, np.ndarray]] | np.ndarray, times: np.ndarray | None = None) -> BodyTrack:
    """Finds the body joints in every frame, without smoothing over time: MediaPipe's counts frames, not seconds.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB, or an array (T, H, W, 3).
        times: (T,) seconds of the frames of an array.

    Raises:
        InputError: there are no frames, or the number of times is not that of the frames.
    """
    if isinstance(frames, np.ndarray):
        if times is None or len(times) != len(frames):
            count = 0 if times is None else len(times)
            raise InputError(
                f"there are {count} times for {len(frames)} frames; give one per frame",
                code=ErrorCode.shape_mismatch,
                field="times",
                value=count,
            )
        frames = zip(np.asarray(times, np.float64).tolist(), frames, strict=True)
    stamps: list[float] = []
    joints: list[np.ndarray] = []
    missed = 0
    pose = create_body_pose()
    try:
        for time, frame in frames:
            stamps.append(time)
            found = None
            if missed < _MAX_CONSECUTIVE_MISSES or missed % (_SKIPPED_FRAMES + 1) == 0:
                found = pose.process(frame).pose_landmarks
            missed = 0 if found else missed + 1
            joints.append(
                _joints(found.landmark, frame) if found else np.full((NUM_BODY_JOINTS, 4), np.nan, np.float32)
            )
    finally:
        pose.close()
    if not stamps:
        raise InputError("there is no frame; give at least one", code=ErrorCode.missing_value, field="frames")
    block = np.stack(joints)
    return BodyTrack(np.array(stamps), block[..., :3], np.nan_to_num(block[..., 3]))


def _joints(landmarks: Iterable, frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    points = [(joint.x * width, joint.y * height, joint.z * width, joint.visibility) for joint in landmarks]
    return np.array(points, np.float32)

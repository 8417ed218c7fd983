"""The body's joints over a video, by MediaPipe Pose of complexity 1."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.perception.mediapipe_graphs import NUM_BODY_JOINTS, create_body_pose

# Frames without a body cost a detection each; after this many in a row only every few are looked at.
_MAX_CONSECUTIVE_MISSES, _SKIPPED_FRAMES = 5, 4


class BodyTrack(NamedTuple):
    """The joints of the most prominent person over T frames."""

    times: np.ndarray
    """(T,) float64 seconds."""
    joints: np.ndarray
    """(T, 33, 3) float32 pixels, z in pixels too (0 at the hips); NaN where no body was found."""
    visibility: np.ndarray
    """(T, 33) float32 in [0, 1]; joints outside of the picture are guessed and come near 0."""


def track_body(frames: Iterable[tuple[float, np.ndarray]] | np.ndarray, times: np.ndarray | None = None) -> BodyTrack:
    """Finds the body's joints in every frame. No smoothing over time: MediaPipe's counts frames, not seconds.

    Args:
        frames: pairs of seconds and (H, W, 3) uint8 RGB, or an array (T, H, W, 3) with `times` (T,).

    Raises:
        InputError: no frames, or times that do not fit.
    """
    if isinstance(frames, np.ndarray):
        if times is None or len(times) != len(frames):
            raise InputError(
                f"{len(frames)} frames come with {0 if times is None else len(times)} times; give one each"
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
        raise InputError("there is no frame to look for a body in; give at least one")
    block = np.stack(joints)
    return BodyTrack(np.array(stamps), block[..., :3], np.nan_to_num(block[..., 3]))


def _joints(landmarks: Iterable, frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    points = [(joint.x * width, joint.y * height, joint.z * width, joint.visibility) for joint in landmarks]
    return np.array(points, np.float32)

"""Expressions estimated from MediaPipe's landmarks, after removing the pose and size of the head (`head_pose`).

Lengths are in distances between the eyes.
"""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.head_pose import HeadPose, head_pose
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS, eye_opening, mouth_opening

LANDMARK_READER_NAME = "MediaPipe's landmarks"
EXPRESSION_CHANNELS: dict[str, tuple[str, ...]] = {
    "mouth": ("mouth_open",),
    "blink": ("blink",),
    "brows": ("brow",),
    "gaze": ("gaze_x", "gaze_y"),
    "head": ("yaw", "pitch", "roll"),
}
"""Estimated channels by group, with the keys of the ground truth."""

EYEBALL_RADIUS = 0.19
"""Radius of the eyeball over the distance between the eyes: 12 mm of 63 mm, as in adults."""
MIN_EYE_OPENING = 0.6
"""Fraction of the median eye opening below which the iris is not visible enough."""

_IRISES = ((468, LEFT_EYE_CORNERS), (473, RIGHT_EYE_CORNERS))
_INNER_BROWS, _INNER_CORNERS = (66, 107, 296, 336), (133, 362)


def landmark_expressions(track: FaceTrack) -> GroundTruth:
    """Returns (T,) values by channel of `EXPRESSION_CHANNELS`, with the sign of the ground truth but other units.

    NaN where no face is known.
    """
    if not track.known.any():
        return {name: np.full(len(track.times), np.nan) for names in EXPRESSION_CHANNELS.values() for name in names}
    pose = head_pose(track.landmarks)
    iris = iris_offset(pose)
    yaw, pitch, roll = pose.angles.T
    return {
        "mouth_open": mouth_opening(track.landmarks).astype(np.float64),
        "blink": -eye_opening(track.landmarks).mean(axis=1).astype(np.float64),
        "brow": _brow_height(pose),
        "gaze_x": iris[:, 0],
        "gaze_y": -iris[:, 1],
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
    }


def iris_offset(pose: HeadPose) -> NDArray[np.float64]:
    """Returns (T, 2) iris positions, right and down, relative to the middle of the eye corners; mean of both."""
    offsets = [
        pose.local_landmarks[:, iris, :2] - pose.local_landmarks[:, corners, :2].mean(axis=1)
        for iris, corners in _IRISES
    ]
    found: NDArray[np.float64] = np.mean(offsets, axis=0)
    return found


def gaze_from_iris(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (T, 3) unit vectors relative to the head (right, down, towards the viewer) from (T, 2) iris positions.

    The iris lies on a sphere of radius `EYEBALL_RADIUS`, whose center is behind the middle of the eye corners.
    """
    sine = offset / EYEBALL_RADIUS
    sine = sine / np.maximum(1.0, np.linalg.norm(sine, axis=1, keepdims=True))
    forward = np.sqrt(np.maximum(0.0, 1 - np.square(sine).sum(axis=1)))
    return np.concatenate([sine, forward[:, None]], axis=1)


def eyes_open(track: FaceTrack) -> NDArray[np.bool_]:
    """Returns (T,) whether the face is known and its eyes are open enough to show the iris."""
    opening = eye_opening(track.landmarks).mean(axis=1)
    if not track.known.any():
        return np.zeros(len(opening), bool)
    visible: NDArray[np.bool_] = track.known & (opening > MIN_EYE_OPENING * np.nanmedian(opening))
    return visible


def _brow_height(pose: HeadPose) -> NDArray[np.float64]:
    """Returns the (T,) height of the inner ends of the brows, their most visible part, above the inner eye corners."""
    brows, corners = (pose.local_landmarks[:, points, 1].mean(axis=1) for points in (_INNER_BROWS, _INNER_CORNERS))
    height: NDArray[np.float64] = corners - brows
    return height

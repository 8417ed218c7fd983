"""What a face does, read from MediaPipe's landmarks: the reader of every measure here that is not given a better one.

All is measured after the head's pose and size are taken out (`head_pose`), in distances between the eyes.
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
"""What is read, in groups, by the names of the truth."""

EYEBALL_RADIUS = 0.19
"""An eyeball's radius over the distance between the eyes: 12 mm of 63 mm, as in adults."""
MIN_EYE_OPENING = 0.6
"""Share of the median eye opening below which the iris cannot be seen well enough."""

_IRISES = ((468, LEFT_EYE_CORNERS), (473, RIGHT_EYE_CORNERS))
_INNER_BROWS, _INNER_CORNERS = (66, 107, 296, 336), (133, 362)


def landmark_expressions(track: FaceTrack) -> GroundTruth:
    """(T,) each, by the names in `EXPRESSION_CHANNELS` and with their signs, in units of their own; NaN where no face
    is known."""
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
    """(T, 2) place of the irises, right and down, from the middle of the eyes' corners; mean of both eyes."""
    places = [
        pose.local_landmarks[:, iris, :2] - pose.local_landmarks[:, corners, :2].mean(axis=1)
        for iris, corners in _IRISES
    ]
    found: NDArray[np.float64] = np.mean(places, axis=0)
    return found


def gaze_from_iris(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, 2) places of the irises to (T, 3) unit vectors in the head: right, down, towards the viewer.

    The iris is taken to lie on a ball of radius `EYEBALL_RADIUS`, whose centre lies behind the middle of the corners.
    """
    sine = offset / EYEBALL_RADIUS
    sine = sine / np.maximum(1.0, np.linalg.norm(sine, axis=1, keepdims=True))
    ahead = np.sqrt(np.maximum(0.0, 1 - np.square(sine).sum(axis=1)))
    return np.concatenate([sine, ahead[:, None]], axis=1)


def eyes_open(track: FaceTrack) -> NDArray[np.bool_]:
    """(T,) whether the face is known and its eyes are open enough to show the iris."""
    opening = eye_opening(track.landmarks).mean(axis=1)
    if not track.known.any():
        return np.zeros(len(opening), bool)
    seen: NDArray[np.bool_] = track.known & (opening > MIN_EYE_OPENING * np.nanmedian(opening))
    return seen


def _brow_height(pose: HeadPose) -> NDArray[np.float64]:
    """(T,) height of the brows' inner ends above the eyes' inner corners: the best seen part of them."""
    brows, corners = (pose.local_landmarks[:, points, 1].mean(axis=1) for points in (_INNER_BROWS, _INNER_CORNERS))
    height: NDArray[np.float64] = corners - brows
    return height

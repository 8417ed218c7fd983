"""Separates the rigid motion of the head from the expression of the face.

The landmarks of each frame are fitted to the mean shape of the track by rotation, translation and scale (Kabsch 1976,
Umeyama 1991) over points of the skull: forehead, temples, bridge of the nose, eye corners. The residual is expression.
"""

from dataclasses import dataclass

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.perception.landmark_measures import interocular_distance

SKULL_LANDMARKS = (
    10,
    338,
    297,
    332,
    284,
    251,
    109,
    67,
    103,
    54,
    21,
    127,
    356,
    168,
    6,
    197,
    195,
    33,
    133,
    362,
    263,
    151,
    9,
    8,
)
"""Landmarks that neither speech nor expression moves: forehead, temples, bridge of the nose, eye corners."""

_LEFT_TO_RIGHT = ((33, 263), (133, 362), (127, 356), (21, 251), (54, 284))
_TOP_TO_BOTTOM = (10, 168), (8, 195), (151, 197)


@dataclass(frozen=True)
class HeadPose:
    """Rigid pose over T frames; NaN where the face is not known."""

    angles: np.ndarray
    """(T, 3) float64 radians: yaw, positive if the nose points to the right edge of the image; pitch, positive if it
    points down; roll, positive if the top of the head leans to the right edge. 0 is a frontal, upright face, up to a
    constant offset of the pitch per face."""
    translation: np.ndarray
    """(T, 3) float64 pixels: center of the skull points (z is the depth within the mesh, nearly constant)."""
    scale: np.ndarray
    """(T,) float64 pixels per interocular distance: the size relative to the mean shape."""
    local_landmarks: np.ndarray
    """(T, 478, 3) float64: frontal landmarks without pose and size, in interocular distances."""
    rotation: np.ndarray
    """(T, 3, 3) float64 matrices that rotate the frontal mean shape to the frame."""


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """Separates rigid head motion from expression.

    Args:
        landmarks: (T, 478, 3) pixels, NaN where not known.

    Raises:
        InputError: no frame has landmarks.
    """
    known = np.isfinite(landmarks).all(axis=(1, 2))
    if not known.any():
        raise InputError(
            "no frame has landmarks to measure a pose; give frames that show a face",
            code=ErrorCode.no_face,
            field="landmarks",
        )
    points = landmarks[known].astype(np.float64)
    shape = _mean_shape(points)
    rotation, translation, scale = _fit(points[:, SKULL_LANDMARKS], shape[SKULL_LANDMARKS, :])
    # x_frame = scale * R x_shape + translation; this is the inverse.
    local = np.einsum("tji,tnj->tni", rotation, points - translation[:, None]) / scale[:, None, None]

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full((len(landmarks), *values.shape[1:]), np.nan)
        full[known] = values
        return full

    return HeadPose(
        angles=spread(_angles(rotation)),
        translation=spread(
            translation + np.einsum("tij,j->ti", rotation, shape[SKULL_LANDMARKS, :].mean(axis=0)) * scale[:, None]
        ),
        scale=spread(scale),
        local_landmarks=spread(local),
        rotation=spread(rotation),
    )


def _mean_shape(points: np.ndarray) -> np.ndarray:
    """Returns the (478, 3) mean shape of (T, 478, 3): skull at the origin, interocular distance 1, frontal."""
    step = max(1, len(points) // 500)
    points = points[::step]
    shape = points[0]
    for _ in range(3):
        shape = shape - shape[SKULL_LANDMARKS, :].mean(axis=0)
        shape = shape / interocular_distance(shape)
        rotation, translation, scale = _fit(points[:, SKULL_LANDMARKS], shape[SKULL_LANDMARKS, :])
        shape = (np.einsum("tji,tnj->tni", rotation, points - translation[:, None]) / scale[:, None, None]).mean(axis=0)
    shape = shape - shape[SKULL_LANDMARKS, :].mean(axis=0)
    return shape @ _frontal_axes(shape).T / interocular_distance(shape)


def _frontal_axes(shape: np.ndarray) -> np.ndarray:
    """Returns the (3, 3) rotation that makes a shape upright and frontal, from its symmetry and midline."""
    across = sum(shape[right] - shape[left] for left, right in _LEFT_TO_RIGHT)
    down = sum(shape[bottom] - shape[top] for top, bottom in _TOP_TO_BOTTOM)
    across = across / np.linalg.norm(across)
    down = down - (down @ across) * across
    down = down / np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)])


def _fit(points: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits points (T, N, 3) ~ scale * R shape + translation per frame by least squares (Umeyama 1991, eq. 40-42)."""
    center, shape_center = points.mean(axis=1), shape.mean(axis=0)
    deviation, shape_deviation = points - center[:, None], shape - shape_center
    left, strength, right = np.linalg.svd(np.einsum("tni,nj->tij", deviation, shape_deviation))
    flip = np.sign(np.linalg.det(left @ right))
    strength[:, 2] *= flip
    left[:, :, 2] *= flip[:, None]
    rotation = left @ right
    scale = strength.sum(axis=1) / np.square(shape_deviation).sum()
    return rotation, center - scale[:, None] * (rotation @ shape_center), scale


def _angles(rotation: np.ndarray) -> np.ndarray:
    """Converts (T, 3, 3) rotations to (T, 3) yaw, pitch, roll; x right, y down, z away from the viewer."""
    # The nose points along -z of the face: its direction in the image gives yaw and pitch.
    nose = -rotation[:, :, 2]
    yaw = np.arctan2(nose[:, 0], -nose[:, 2])
    pitch = np.arctan2(nose[:, 1], np.hypot(nose[:, 0], nose[:, 2]))
    across = rotation[:, :, 0]
    roll = np.arctan2(across[:, 1], np.hypot(across[:, 0], across[:, 2]))
    return np.stack([yaw, pitch, roll], axis=1)

"""The head's rigid motion, and the face with it removed.

Each frame's landmarks are fitted to the track's mean shape by rotation, translation and scale (Kabsch 1976, Umeyama
1991) over points of the skull: forehead, temples, bridge of the nose, eye corners. What is left is expression.
"""

from dataclasses import dataclass

import numpy as np

from fantasytalking.common.errors import InputError
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
"""Landmarks that neither speech nor mimicry moves: forehead and temples, bridge of the nose, eye corners."""

_LEFT_TO_RIGHT = ((33, 263), (133, 362), (127, 356), (21, 251), (54, 284))
_TOP_TO_BOTTOM = (10, 168), (8, 195), (151, 197)


@dataclass(frozen=True)
class HeadPose:
    """Rigid pose over T frames; NaN where the face is not known."""

    angles: np.ndarray
    """(T, 3) float64 radians: yaw, positive when the nose points to the right edge of the picture; pitch, positive
    when it points down; roll, positive when the top of the head leans to the right edge. 0 is a frontal, upright face
    as far as the mesh can tell (pitch has an offset of each face's own)."""
    translation: np.ndarray
    """(T, 3) float64 pixels: centre of the skull points (z is depth within the mesh only, nearly constant)."""
    scale: np.ndarray
    """(T,) float64: size relative to the mean shape, which has interocular distance 1; so pixels per interocular."""
    local_landmarks: np.ndarray
    """(T, 478, 3) float64: landmarks with pose and size removed, in interocular distances, frontal."""
    rotation: np.ndarray
    """(T, 3, 3) float64 matrices that turn the frontal mean shape to the frame's."""


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """Separates rigid head motion from expression.

    Args:
        landmarks: (T, 478, 3) pixels, NaN where not known.

    Raises:
        InputError: no frame has landmarks.
    """
    known = np.isfinite(landmarks).all(axis=(1, 2))
    if not known.any():
        raise InputError("there is no face whose pose could be measured: no frame has landmarks")
    points = landmarks[known].astype(np.float64)
    shape = _mean_shape(points)
    rotation, translation, scale = _fit(points[:, SKULL_LANDMARKS], shape[SKULL_LANDMARKS, :])
    # x_frame = scale * R x_shape + translation, hence the way back:
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
    """(T, 478, 3) to the (478, 3) mean shape: skull at the origin, interocular distance 1, facing the viewer."""
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
    """(3, 3) rotation that turns a shape upright and frontal, from its symmetry and its nose-to-forehead line."""
    across = sum(shape[right] - shape[left] for left, right in _LEFT_TO_RIGHT)
    down = sum(shape[bottom] - shape[top] for top, bottom in _TOP_TO_BOTTOM)
    across = across / np.linalg.norm(across)
    down = down - (down @ across) * across
    down = down / np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)])


def _fit(points: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Umeyama's least-squares similarity: points (T, N, 3) ~ scale * R shape + translation, for every frame."""
    centre, shape_centre = points.mean(axis=1), shape.mean(axis=0)
    deviation, shape_deviation = points - centre[:, None], shape - shape_centre
    left, strength, right = np.linalg.svd(np.einsum("tni,nj->tij", deviation, shape_deviation))
    flip = np.sign(np.linalg.det(left @ right))
    strength[:, 2] *= flip
    left[:, :, 2] *= flip[:, None]
    rotation = left @ right
    scale = strength.sum(axis=1) / np.square(shape_deviation).sum()
    return rotation, centre - scale[:, None] * (rotation @ shape_centre), scale


def _angles(rotation: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations to (T, 3) yaw, pitch, roll; x right, y down, z away from the viewer; R = roll pitch yaw."""
    # The nose points along -z of the face: its direction in the picture gives yaw and pitch.
    nose = -rotation[:, :, 2]
    yaw = np.arctan2(nose[:, 0], -nose[:, 2])
    pitch = np.arctan2(nose[:, 1], np.hypot(nose[:, 0], nose[:, 2]))
    across = rotation[:, :, 0]
    roll = np.arctan2(across[:, 1], np.hypot(across[:, 0], across[:, 2]))
    return np.stack([yaw, pitch, roll], axis=1)

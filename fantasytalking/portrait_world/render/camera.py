"""Posture of head and shoulders, and their projection to the image."""

from dataclasses import dataclass, replace

import numpy as np

from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.frame_state import FaceState

HEAD_PIVOT = np.array([0.0, -0.95, -0.22], np.float32)
BODY_PIVOT = np.array([0.0, -2.6, -0.1], np.float32)
PORTRAIT_HEIGHT_UNITS = 3.08  # height of a portrait in head units
PORTRAIT_CENTER_Y = -0.21  # y of a portrait's middle, in head units
CAMERA_DISTANCE = 13.0
ZOOM_FIXPOINT_Y = 0.5  # y, in head units, that keeps its position under zoom
MIN_ZOOM, MAX_ZOOM = 0.62, 1.5  # below the minimum, the ends of the shoulders would be visible
BODY_FOLLOW_FRACTION = 0.35  # fraction of the head's shift that the shoulders follow


@dataclass(frozen=True)
class Posture:
    """Rotation matrices (3, 3) and shifts (3,) of head and body, in head units."""

    head_rotation: FloatArray
    head_shift: FloatArray
    body_rotation: FloatArray
    body_shift: FloatArray

    def transform_points(self, points: FloatArray, head_weight: FloatArray | None = None) -> FloatArray:
        """Transforms resting points (V, 3); `head_weight` (V,) is the weight of the head's motion, None for 1."""
        with_head: FloatArray = (points - HEAD_PIVOT) @ self.head_rotation.T + HEAD_PIVOT + self.head_shift
        if head_weight is None:
            return with_head
        with_body: FloatArray = (points - BODY_PIVOT) @ self.body_rotation.T + BODY_PIVOT + self.body_shift
        return with_body + (with_head - with_body) * head_weight[:, None]

    def transform_normals(self, normals: FloatArray, head_weight: FloatArray | None = None) -> FloatArray:
        """Transforms resting normals (V, 3), without renormalization."""
        with_head: FloatArray = normals @ self.head_rotation.T
        if head_weight is None:
            return with_head
        with_body: FloatArray = normals @ self.body_rotation.T
        return with_body + (with_head - with_body) * head_weight[:, None]


def rotation_matrix(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Returns a rotation in radians: `yaw` to the right of the image, `pitch` down, `roll` of the top to the right."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def posture_from_state(state: FaceState) -> Posture:
    """Returns the posture of a state."""
    head_shift = np.array([state.x, -state.y, 0], np.float32) * PORTRAIT_HEIGHT_UNITS
    shoulders = np.array([state.shoulder_x, -state.shoulder_y, 0], np.float32) * PORTRAIT_HEIGHT_UNITS
    return Posture(
        rotation_matrix(state.yaw, state.pitch, state.roll),
        head_shift,
        rotation_matrix(0.25 * state.yaw, 0, state.shoulder_roll),
        shoulders + BODY_FOLLOW_FRACTION * head_shift,
    )


def scale_shifts_for_zoom(state: FaceState, zoom: float) -> FaceState:
    """Divides shifts by `zoom`, so that after magnification they are the given fractions of the image again."""
    shifts = {name: getattr(state, name) / zoom for name in ("x", "y", "shoulder_x", "shoulder_y")}
    return replace(state, **shifts)


@dataclass(frozen=True)
class Camera:
    """Camera with `scale` pixels per unit around (`column`, `row`), the image position of the origin."""

    scale: float
    column: float
    row: float

    @classmethod
    def portrait(cls, height: int, width: int, zoom: float = 1.0, offset: tuple[float, float] = (0.0, 0.0)) -> "Camera":
        """Returns the camera of the default portrait, head and shoulders in the center, magnified `zoom` times and
        translated by `offset` (right, down) in image heights."""
        scale = height / PORTRAIT_HEIGHT_UNITS * zoom
        center = ZOOM_FIXPOINT_Y + (PORTRAIT_CENTER_Y - ZOOM_FIXPOINT_Y) / zoom
        return cls(scale, width / 2 + offset[0] * height, height / 2 + center * scale + offset[1] * height)

    def project(self, points: FloatArray) -> FloatArray:
        """Projects points (V, 3) to column, row and nearness (V, 3) in pixels."""
        factor = self.scale * CAMERA_DISTANCE / (CAMERA_DISTANCE - points[:, 2])
        column = self.column + factor * points[:, 0]
        row = self.row - factor * points[:, 1]
        return np.stack([column, row, points[:, 2] * self.scale], 1).astype(np.float32)

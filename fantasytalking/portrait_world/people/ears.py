"""Geometry of the ears: a shallow shell on each side of the head."""

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import normalize_vectors, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.identity import Identity

EAR_ROWS, EAR_COLUMNS = 8, 25


def make_ear(identity: Identity, half_width: float, side: int) -> tuple[FloatArray, FloatArray]:
    """Returns points (ROWS, COLUMNS, 3) of the ear on `side` (-1 left, 1 right) and the fraction of light that reaches
    each."""
    size = 1 + 0.14 * identity.shape.ears + 0.10 * identity.wrinkles
    radius = np.linspace(0.02, 1, EAR_ROWS)[:, None]
    turn = np.linspace(-np.pi, np.pi, EAR_COLUMNS)[None] * (1 if side > 0 else -1)
    up = normalize_vectors(np.array([0.10 * side, 1.0, -0.16], np.float32))
    back = normalize_vectors(np.array([0.42 * side, 0.0, -0.90], np.float32))
    out = np.cross(up, back) * -side
    tall, wide = 0.275 * size, 0.165 * size
    height = np.sin(turn)
    breadth = np.cos(turn) * (1 + 0.28 * height) * wide
    rim = np.exp(-(((radius - 0.86) / 0.13) ** 2)) * smoothstep(-1.0, -0.45, np.cos(turn))
    bowl = np.exp(-((radius / 0.5) ** 2))
    relief = 0.045 * rim - 0.045 * bowl + 0.02 * (1 - radius)
    center = np.array([side * (half_width - 0.01), -0.13, -0.10], np.float32)
    points = center + radius[..., None] * (height * tall)[..., None] * up + (radius * breadth)[..., None] * back
    points = points + relief[..., None] * out
    reach = 1 - 0.55 * bowl - 0.22 * np.exp(-(((radius - 0.62) / 0.12) ** 2))
    return points.astype(np.float32), np.broadcast_to(reach, points.shape[:2]).astype(np.float32)

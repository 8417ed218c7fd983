"""Geometry of eyeballs and lid margins, and the color of the eye by direction from its center."""

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import normalize_vectors, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.identity import Identity

EYE_ROWS, EYE_COLUMNS = 11, 13
IRIS_ANGLE, PUPIL_ANGLE = 0.455, 0.190
MAX_GAZE_ANGLES = (0.42, 0.26)  # radians, sideways and upwards


def eyeball_directions() -> FloatArray:
    """Returns directions (ROWS, COLUMNS, 3) from the center to the visible front of an eyeball."""
    across = np.linspace(-1.35, 1.35, EYE_COLUMNS)[None]
    down = np.linspace(1.1, -1.1, EYE_ROWS)[:, None]
    x, y = np.sin(across) * np.cos(down), np.sin(down) + 0 * across
    return np.stack([x, y, np.cos(across) * np.cos(down)], -1).astype(np.float32)


def gaze_vector(gaze_x: float, gaze_y: float) -> FloatArray:
    """Returns the unit vector (3,) of a gaze in [-1, 1]."""
    yaw, pitch = MAX_GAZE_ANGLES[0] * gaze_x, MAX_GAZE_ANGLES[1] * gaze_y
    return np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], np.float32)


def eye_albedo(identity: Identity, directions: FloatArray, gaze: FloatArray, softness: float) -> FloatArray:
    """Returns the linear color (N, 3) of the eye at unit `directions` (N, 3); `softness`: width of edges in radians."""
    angle = np.arccos(np.clip(directions @ gaze, -1, 1))
    ahead = directions - (directions @ gaze)[:, None] * gaze
    around = np.arctan2(ahead[:, 1], ahead[:, 0])
    white = np.array([0.84, 0.81, 0.79]) ** 2
    veins = smoothstep(0.5, 1.15, np.abs(directions[:, 0]))[:, None]
    sclera = white * (1 - veins * np.array([0.12, 0.34, 0.34]))
    color = np.array(identity.eyes) ** 2
    ray = 0.5 + 0.5 * np.sin(around * 17 + 3 * np.sin(around * 5 + identity.number))
    radius = angle / IRIS_ANGLE
    brightness = (0.75 + 0.45 * ray * smoothstep(0.35, 0.8, radius)) * (1.25 - 0.9 * smoothstep(0.74, 1.0, radius))
    # Light that enters above gathers below.
    brightness = brightness * (1 + 0.55 * np.clip(-ahead[:, 1] / IRIS_ANGLE, -0.6, 1))
    iris = color * brightness[:, None]
    pupil = smoothstep(PUPIL_ANGLE + softness, PUPIL_ANGLE - softness, angle)[:, None]
    iris = iris * (1 - pupil) + 0.0012 * pupil
    inside = smoothstep(IRIS_ANGLE + softness, IRIS_ANGLE - softness, angle)[:, None]
    return (sclera * (1 - inside) + iris * inside).astype(np.float32)


def eye_specular(normals: FloatArray, light: FloatArray) -> FloatArray:
    """Returns the reflection of the light (N,) on the eye: a soft-edged spot and a fainter second one."""
    middle = normalize_vectors(light + np.array([0, 0, 1.4], np.float32))
    second = normalize_vectors(light * np.array([-0.6, -0.4, 1], np.float32) + np.array([0, 0, 1.6], np.float32))
    spot = smoothstep(0.985, 0.996, normals @ middle)
    return 0.85 * spot + 0.10 * smoothstep(0.975, 0.995, normals @ second)

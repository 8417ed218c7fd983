"""Shading in linear colors with a soft key light, a weaker fill light, ambient light and a rim light."""

from dataclasses import dataclass

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import normalize_vectors
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.identity import Identity

SKIN_WRAP = np.array([0.42, 0.26, 0.20], np.float32)
CLOTH_WRAP = np.array([0.22, 0.22, 0.22], np.float32)
VIEW_DIRECTION = np.array([0, 0, 1], np.float32)


@dataclass(frozen=True)
class Lights:
    """Unit directions (3,) toward the lights."""

    key: FloatArray
    fill: FloatArray
    rim: FloatArray


def lights_for(identity: Identity) -> Lights:
    """Returns the lights of an identity."""
    side = identity.light_side
    return Lights(
        normalize_vectors(np.array([0.75 * side, 0.62, 0.85], np.float32)),
        normalize_vectors(np.array([-0.9 * side, 0.12, 0.7], np.float32)),
        normalize_vectors(np.array([-0.8 * side, 0.45, -0.35], np.float32)),
    )


def shade_surface(
    albedo: FloatArray,
    normals: FloatArray,
    ambient_visibility: FloatArray,
    gloss: FloatArray,
    lights: Lights,
    wrap: FloatArray,
) -> FloatArray:
    """Returns linear radiance (N, 3).

    Args:
        albedo: (N, 3) linear; normals (N, 3) unit.
        ambient_visibility: (N,) fraction of ambient light that arrives.
        gloss: (N,) strength of highlights.
        wrap: (3,) amount by which each color channel wraps into the shadow; largest for red in skin.
    """
    key = (normals @ lights.key)[:, None]
    fill = np.maximum((normals @ lights.fill + 0.3) / 1.3, 0)[:, None]
    diffuse = np.maximum((key + wrap) / (1 + wrap), 0)
    sky = 0.5 + 0.5 * normals[:, 1:2]
    light = diffuse * np.array([0.93, 0.885, 0.83], np.float32) * (0.35 + 0.65 * ambient_visibility[:, None])
    light += ambient_visibility[:, None] * (fill * np.array([0.15, 0.165, 0.19], np.float32) + 0.10 + 0.16 * sky)
    edge = np.maximum(1 - normals[:, 2:], 0) ** 3
    rim = edge * np.maximum((normals @ lights.rim)[:, None], 0)
    half = np.maximum(normals @ normalize_vectors(lights.key + VIEW_DIRECTION), 0)
    sheen = gloss * ambient_visibility * (0.10 * half**14 + 0.11 * half**48)
    return albedo * light + (0.30 * rim + 0.03 * edge) * (0.25 + albedo) + sheen[:, None]


def tone_map(radiance: FloatArray) -> FloatArray:
    """Maps linear radiance to sRGB in [0, 1] with a soft roll-off of highlights."""
    bright = np.maximum(radiance, 0)
    return np.sqrt(np.where(bright > 0.7, 1 - 0.3 * np.exp(-(bright - 0.7) / 0.3), bright))

"""Backdrops: a soft studio wall, a wall with defocused lights, or a blurred room."""

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import gaussian_blur
from fantasytalking.portrait_world.graphics.mesh import smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.face_paint import srgb_to_linear
from fantasytalking.portrait_world.people.identity import Identity, mix_colors


def make_backdrop(identity: Identity, height: int, width: int) -> FloatArray:
    """Returns a backdrop (height, width, 3), sRGB in [0, 1]."""
    random = np.random.default_rng([7_305, identity.number])
    scale = height
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) / scale, (np.arange(height) + 0.5) / scale - 0.5)
    x, y = x.astype(np.float32), y.astype(np.float32)
    center_x = 0.22 * identity.light_side
    glow = np.exp(-((x - center_x) ** 2 + (y + 0.08) ** 2) / 0.30)
    base = srgb_to_linear(identity.backdrop)
    image = base * (0.34 + 0.78 * glow)[..., None]
    if identity.backdrop_style == "room":
        image = _blurred_room(identity, image, x, y, random, scale)
    if identity.backdrop_style == "lights":
        image = _bokeh_lights(identity, image * 0.5, x, y, random)
    return np.sqrt(np.clip(image, 0, 1)).astype(np.float32)


def _blurred_room(
    identity: Identity, image: FloatArray, x: FloatArray, y: FloatArray, random: np.random.Generator, scale: int
) -> FloatArray:
    side, aspect = float(np.sign(identity.light_side)), x.shape[1] / x.shape[0]
    window = smoothstep(0.20, 0.24, side * x) * smoothstep(0.52, 0.48, side * x) * smoothstep(0.16, 0.12, y)
    bars = 1 - 0.5 * np.exp(-(((side * x - 0.36) / 0.008) ** 2)) - 0.5 * np.exp(-(((y + 0.18) / 0.008) ** 2))
    image = image + window[..., None] * bars[..., None] * np.array([0.62, 0.68, 0.72], np.float32) * 0.7
    for _ in range(4):
        left, top = random.uniform(-0.5, 0.3) * aspect, random.uniform(-0.35, 0.2)
        wide, tall = random.uniform(0.06, 0.22), random.uniform(0.08, 0.3)
        tint = srgb_to_linear(mix_colors(identity.backdrop, identity.second_cloth, float(random.uniform(0.3, 0.8))))
        inside = (side * x < left + wide) & (side * x > left) & (y > top) & (y < top + tall) & (side * x < 0.15)
        image = np.where(inside[..., None], 0.6 * image + 0.4 * tint, image)
    shelf = np.exp(-(((y - 0.26) / 0.012) ** 2))[..., None] * 0.35
    image = image * (1 - shelf)
    return gaussian_blur(image, 0.022 * scale)


def _bokeh_lights(
    identity: Identity, image: FloatArray, x: FloatArray, y: FloatArray, random: np.random.Generator
) -> FloatArray:
    aspect = x.shape[1] / x.shape[0]
    for _ in range(round(22 * aspect)):
        radius = random.uniform(0.02, 0.06)
        place_x, place_y = random.uniform(-0.55, 0.55) * aspect, random.uniform(-0.5, 0.35)
        distance = np.hypot(x - place_x, y - place_y)
        disc = smoothstep(radius, radius * 0.82, distance) * (0.75 + 0.25 * smoothstep(0.5 * radius, radius, distance))
        warm = mix_colors((1.0, 0.80, 0.55), identity.backdrop, float(random.uniform(0, 0.9)))
        image = image + (disc * random.uniform(0.05, 0.26))[..., None] * srgb_to_linear(warm)
    return image

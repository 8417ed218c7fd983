"""Garments: coverage of neck and shoulders, offset from the body, and colors."""

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.face_paint import srgb_to_linear
from fantasytalking.portrait_world.people.identity import Color, Identity, mix_colors

# Ring of the neckline at the side of the neck, how far it dips in front (in rings), half width of the dip in units.
NECKLINES = {
    "crew": (14.55, 0.30, 0.60),
    "vee": (14.70, 2.10, 0.42),
    "turtleneck": (12.95, 0.35, 0.50),
    "shirt": (14.20, 1.30, 0.26),
    "jacket": (14.55, 0.30, 0.60),
}
LAPEL_CUT = (14.60, 4.20, 0.62)
THICKNESS = {"crew": 0.030, "vee": 0.028, "turtleneck": 0.062, "shirt": 0.030, "jacket": 0.030}


def _neckline_ring(cut: tuple[float, float, float], angle: FloatArray, x: FloatArray) -> FloatArray:
    side, dip, half_width = cut
    shape = np.clip(1 - np.abs(x) / half_width, 0, 1)
    if dip < 1:
        shape = shape * (2 - shape)
    return side + dip * shape * (np.abs(angle) < 1.57)


def garment_thickness(identity: Identity, ring: FloatArray, angle: FloatArray, x: FloatArray) -> FloatArray:
    """Returns the offset of cloth from the body (V,) in units."""
    neckline = _neckline_ring(NECKLINES[identity.garment], angle, x)
    thickness = THICKNESS[identity.garment] * smoothstep(-0.14, 0.10, ring - neckline)
    if identity.garment == "jacket":
        thickness = thickness + 0.022 * smoothstep(-0.45, 0.45, ring - _neckline_ring(LAPEL_CUT, angle, x))
    return thickness.astype(np.float32)


def paint_clothing(
    identity: Identity, texels: FloatArray, ring: FloatArray, angle: FloatArray, x: FloatArray, y: FloatArray
) -> None:
    """Paints cloth on texels (H, W, 6) of red, green, blue, gloss, ambient visibility, skin; in place."""
    random = np.random.default_rng([7_303, identity.number])
    depth = ring - _neckline_ring(NECKLINES[identity.garment], angle, x)
    inner = identity.second_cloth if identity.garment == "jacket" else identity.cloth
    texels[..., 4] *= 1 - 0.35 * smoothstep(-0.55, 0.0, depth) * (depth < 0)
    _blend_cloth(texels, smoothstep(-0.05, 0.06, depth), _cloth_color(inner, x, y, random, _weave_strength(identity)))
    seam = 0.0 if identity.garment in ("shirt", "jacket") else 1.0
    ribs = 0.10 * np.sin(angle * 90) * smoothstep(0.42, 0.34, depth) * (depth > 0) * seam
    texels[..., :3] *= (1 + ribs)[..., None]
    _darken_seam(texels, depth - 0.38, 0.05, 0.35 * seam)
    if identity.garment == "shirt":
        _paint_collar(texels, depth, angle, x, inner)
    if identity.garment == "jacket":
        lapel = ring - _neckline_ring(LAPEL_CUT, angle, x)
        texels[..., 4] *= 1 - 0.45 * smoothstep(-0.5, 0.0, lapel) * (lapel < 0) * (depth > 0)
        _blend_cloth(texels, smoothstep(-0.05, 0.06, lapel), _cloth_color(identity.cloth, x, y, random, 0.03))
        _darken_seam(texels, lapel - 1.05, 0.05, 0.45)


def _weave_strength(identity: Identity) -> float:
    return {"crew": 0.035, "vee": 0.06, "turtleneck": 0.08, "shirt": 0.02, "jacket": 0.03}[identity.garment]


def _cloth_color(color: Color, x: FloatArray, y: FloatArray, random: np.random.Generator, weave: float) -> FloatArray:
    """Returns the linear color (H, W, 3) of cloth with knit and soft folds."""
    first, second = random.uniform(0, 6, 2)
    folds = 0.07 * np.sin(5 * x + 3 * np.sin(2.5 * y + first)) * np.sin(4 * y + second) * smoothstep(-1.5, -2.0, y)
    knit = weave * np.sin(110 * x) * np.sin(110 * y)
    return srgb_to_linear(mix_colors(color, (0.5, 0.5, 0.5), 0.03)) * (1 + folds + knit)[..., None]


def _blend_cloth(texels: FloatArray, cover: FloatArray, color: FloatArray) -> None:
    texels[..., :3] += (color - texels[..., :3]) * cover[..., None]
    texels[..., 3] += (0.05 - texels[..., 3]) * cover
    texels[..., 4] += (0.92 - texels[..., 4]) * cover * 0.8
    texels[..., 5] *= 1 - cover


def _darken_seam(texels: FloatArray, distance: FloatArray, width: float, strength: float) -> None:
    """Paints a dark seam where `distance` is zero."""
    texels[..., 4] *= 1 - strength * np.exp(-((distance / width) ** 2))


def _paint_collar(texels: FloatArray, depth: FloatArray, angle: FloatArray, x: FloatArray, color: Color) -> None:
    lower = 0.62 + 0.55 * np.clip(1 - np.abs(np.abs(x) - 0.24) / 0.2, 0, 1)
    on_collar = smoothstep(0.06, -0.05, depth - lower) * (depth > 0)
    texels[..., :3] += (srgb_to_linear(mix_colors(color, (1, 1, 1), 0.10)) - texels[..., :3]) * (on_collar * 0.8)[
        ..., None
    ]
    shadow = np.exp(-(((depth - lower - 0.08) / 0.10) ** 2)) * (depth > lower)
    texels[..., 4] *= 1 - 0.45 * shadow
    placket = np.exp(-((x / 0.012) ** 2)) * (depth > 0.05) * (np.abs(angle) < 1)
    texels[..., 4] *= 1 - 0.35 * placket

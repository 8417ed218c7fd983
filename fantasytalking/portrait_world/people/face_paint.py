"""Paints the face's texture on a canvas: skin, lips, brows, lashes and signs of age."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.canvas import FaceCanvas
from fantasytalking.portrait_world.graphics.mesh import gaussian_bump, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.head_mesh import FaceFeatures
from fantasytalking.portrait_world.people.identity import Color, Identity, mix_colors


def srgb_to_linear(color: Color) -> FloatArray:
    """Converts sRGB to linear color (3,), with a square in place of the exact curve."""
    return np.array(color, np.float32) ** 2


def paint_face(identity: Identity, f: FaceFeatures, density: float) -> tuple[FaceCanvas, FloatArray]:
    """Returns the face's canvas and its layers (H, W, 5): linear red, green, blue, gloss, ambient visibility."""
    canvas = FaceCanvas(density)
    random = np.random.default_rng([7_302, identity.number])
    color = _skin_color(identity, f, canvas, random)
    gloss = _gloss(f, canvas)
    reach = _occlusion(identity, f, canvas)
    _paint_beard(identity, f, canvas, random, color)
    _paint_lips(identity, f, canvas, random, color, gloss)
    _paint_eyes(identity, f, canvas, color, gloss)
    _paint_brows(identity, f, canvas, random, color)
    _paint_wrinkles(identity, f, canvas, random, reach)
    return canvas, np.dstack([color, gloss, reach]).astype(np.float32)


def blend_color(color: FloatArray, tint: FloatArray, cover: FloatArray) -> None:
    """Blends a linear tint (3,) into an image (H, W, 3) with coverage (H, W), in place."""
    color += (tint - color) * cover[..., None]


def _skin_color(identity: Identity, f: FaceFeatures, canvas: FaceCanvas, random: np.random.Generator) -> FloatArray:
    x, y = canvas.x, canvas.y
    side = np.abs(x)
    color = np.empty((*x.shape, 3), np.float32)
    color[:] = srgb_to_linear(identity.skin)
    flush = mix_colors(identity.skin, (0.78, 0.34, 0.30), 0.55)
    rosy = 0.26 * gaussian_bump(side, y, (0.40, -0.33), (0.20, 0.16)) + 0.28 * gaussian_bump(
        x, y, (0, f.nose_y + 0.09), (0.13, 0.10)
    )
    rosy += 0.10 * gaussian_bump(x, y, (0, f.mouth_y - 0.33), (0.18, 0.10))
    rosy += 0.22 * identity.make_up * gaussian_bump(side, y, (0.45, -0.27), (0.17, 0.11))
    blend_color(color, srgb_to_linear(flush), np.clip(rosy, 0, 1))
    blend_color(
        color,
        srgb_to_linear(mix_colors(identity.skin, (1.0, 0.93, 0.80), 0.4)),
        0.25 * gaussian_bump(x, y, (0, 0.52), (0.38, 0.2)),
    )
    shade = mix_colors(identity.skin, (0.34, 0.22, 0.26), 0.5)
    tired = (0.20 + 0.25 * identity.wrinkles) * gaussian_bump(side, y, (f.eye_x - 0.02, f.eye_y - 0.115), (0.15, 0.05))
    blend_color(color, srgb_to_linear(shade), tired)
    blend_color(
        color, srgb_to_linear(shade), 0.25 * gaussian_bump(side, y, (f.eye_x - 0.17, f.eye_y + 0.02), (0.06, 0.08))
    )
    mottle = 0.018 * canvas.smooth_noise(random, 0.16) + 0.012 * canvas.smooth_noise(random, 0.05)
    color *= (1 + mottle * (1 + identity.wrinkles))[..., None]
    if identity.freckles:
        _paint_freckles(identity, canvas, random, color)
    return color


def _paint_freckles(identity: Identity, canvas: FaceCanvas, random: np.random.Generator, color: FloatArray) -> None:
    count = int(150 * identity.freckles)
    places = np.stack([random.normal(0, 0.30, count), random.normal(-0.2, 0.17, count)], -1)
    dots = [np.stack([place, place + 0.001]) for place in places]
    cover = canvas.draw_strokes(dots, 0.013, 0.004)
    blend_color(color, srgb_to_linear(mix_colors(identity.skin, (0.45, 0.22, 0.10), 0.55)), 0.55 * cover)


def _gloss(f: FaceFeatures, canvas: FaceCanvas) -> FloatArray:
    x, y = canvas.x, canvas.y
    gloss = (
        0.30
        + 0.35 * gaussian_bump(x, y, (0, f.nose_y + 0.12), (0.07, 0.16))
        + 0.18 * gaussian_bump(x, y, (0, 0.5), (0.4, 0.2))
    )
    return gloss + 0.15 * gaussian_bump(np.abs(x), y, (0.42, -0.18), (0.14, 0.1))


def _occlusion(identity: Identity, f: FaceFeatures, canvas: FaceCanvas) -> FloatArray:
    """Returns the fraction of ambient light that reaches the skin (H, W): less in sockets, at the nose, below lips."""
    x, y = canvas.x, canvas.y
    side = np.abs(x)
    broad = 1 + 0.22 * identity.shape.nose_width
    dark = 0.26 * gaussian_bump(side, y, (f.eye_x - 0.17, f.eye_y + 0.04), (0.07, 0.09))
    dark += 0.16 * gaussian_bump(side, y, (f.eye_x, f.eye_y + 0.09), (0.20, 0.06))
    dark += 0.22 * gaussian_bump(side, y, (0.190 * broad, f.nose_y + 0.060), (0.032, 0.06))
    dark += 0.20 * gaussian_bump(x, y, (0, f.nose_y - 0.014), (0.13 * broad, 0.030))
    dark += 0.22 * gaussian_bump(x, y, (0, f.mouth_y - 0.5 * f.lower_lip - 0.115), (0.17, 0.035))
    dark += 0.26 * gaussian_bump(side, y, (f.mouth_half_width + 0.012, f.mouth_y - 0.008), (0.030, 0.030))
    nostril = gaussian_bump(side, y, (0.066 * broad, f.nose_y + 0.018), (0.036 * broad, 0.016))
    dark += 0.66 * smoothstep(0.15, 0.9, nostril)
    return np.clip(1 - dark, 0.08, 1)


def _paint_lips(
    identity: Identity,
    f: FaceFeatures,
    canvas: FaceCanvas,
    random: np.random.Generator,
    color: FloatArray,
    gloss: FloatArray,
) -> None:
    x, y = canvas.x, canvas.y
    top, line, bottom = f.lip_borders(x)
    edge = 0.012
    within = smoothstep(-edge, edge, top - y) * smoothstep(-edge, edge, y - bottom)
    within *= smoothstep(1.02, 0.94, np.abs(x) / f.mouth_half_width)
    cover = within * (0.72 + 0.25 * identity.make_up)
    lines = 1 + 0.10 * np.sin(x * 150 + 2 * canvas.smooth_noise(random, 0.05)) * (0.4 + identity.wrinkles)
    deep = srgb_to_linear(mix_colors(identity.lips, (0.25, 0.06, 0.08), 0.45))
    shade = np.where(y >= line, 0.86, 1.0) * lines
    color += (srgb_to_linear(identity.lips) * shade[..., None] - color) * cover[..., None]
    blend_color(color, deep, 0.42 * within * np.exp(-(((y - line) / 0.011) ** 2)))
    gloss += within * (0.25 + 0.5 * identity.make_up) * np.where(y >= line, 0.4, 1.0)


def _paint_eyes(identity: Identity, f: FaceFeatures, canvas: FaceCanvas, color: FloatArray, gloss: FloatArray) -> None:
    x, y = canvas.x, canvas.y
    side = np.abs(x)
    _, closing, _ = f.lid_line(x)
    along = (side - f.eye_x) / f.eye_half_width
    inside = smoothstep(1.10, 0.92, np.abs(along))
    dark = srgb_to_linear(mix_colors(identity.brows, (0.05, 0.04, 0.04), 0.6))
    thickness = 0.012 + 0.016 * np.clip(1 - along**2, 0, 1) * (1 + 0.35 * along)
    lashes = smoothstep(1.04, 0.80, np.abs(along)) * smoothstep(-0.006, 0.003, y - closing)
    lashes = lashes * smoothstep(1.0, 0.45, (y - closing) / thickness)
    blend_color(color, dark, lashes * (0.62 + 0.33 * identity.make_up))
    wing = gaussian_bump(along, y, (1.05, 0.0), (0.22, 1e9)) * np.exp(-(((y - closing - 0.012) / 0.012) ** 2))
    blend_color(color, dark, np.clip(wing * (0.10 + 0.5 * identity.make_up), 0, 1))
    under = inside * np.exp(-(((y - closing + 0.010) / 0.009) ** 2))
    blend_color(color, srgb_to_linear(mix_colors(identity.skin, (0.45, 0.20, 0.18), 0.55)), 0.55 * under)
    # The crease of the upper lid lies in the skin that folds when the eye opens.
    crease_y = closing + 0.088 + 0.012 * identity.shape.lid_fold + 0.02 * (1 - along**2)
    crease = smoothstep(1.25, 0.9, np.abs(along)) * np.exp(-(((y - crease_y) / 0.012) ** 2))
    blend_color(color, srgb_to_linear(mix_colors(identity.skin, (0.28, 0.14, 0.12), 0.7)), 0.55 * crease)
    if identity.make_up > 0.3:
        shadow = mix_colors(identity.skin, mix_colors(identity.cloth, (0.35, 0.2, 0.25), 0.6), 0.6)
        lid = smoothstep(1.2, 0.8, np.abs(along)) * smoothstep(0.0, 0.02, y - closing)
        blend_color(color, srgb_to_linear(shadow), 0.45 * identity.make_up * lid * smoothstep(0.15, 0.07, y - closing))
    gloss -= 0.15 * gaussian_bump(side, y, (f.eye_x, f.eye_y), (0.2, 0.1))


def brow_line(
    identity: Identity, f: FaceFeatures, along: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns x and y of the brow's center line (right side) for `along` in [0, 1] from the nose outward."""
    x = 0.125 + along * (0.39 + 0.05 * identity.shape.width)
    arch = 0.055 * np.sin(np.pi * np.clip(along / 1.25, 0, 1)) * (0.8 + 0.5 * identity.softness)
    return x, f.brow_y - 0.02 + arch + (0.002 + 0.025 * identity.shape.brow_angle) * (along - 0.35)


def _paint_brows(
    identity: Identity, f: FaceFeatures, canvas: FaceCanvas, random: np.random.Generator, color: FloatArray
) -> None:
    strokes: list[NDArray[np.float64]] = []
    thickness = 0.052 * identity.brow_weight
    for side in (-1, 1):
        for along in random.uniform(0, 1, 170):
            x, y = brow_line(identity, f, np.array(along))
            taper = np.interp(along, [0, 0.12, 0.6, 1], [0.75, 1, 0.8, 0.18])
            offset = random.uniform(-0.5, 0.5) * thickness * taper
            lean = np.interp(along, [0, 0.25, 1], [1.25, 0.7, 0.05]) - 1.0 * offset / thickness * 0.6
            length = random.uniform(0.045, 0.075) * (0.7 + 0.4 * identity.brow_weight)
            start = np.array([float(x), float(y) + offset])
            middle = start + length * 0.5 * np.array([np.cos(lean), np.sin(lean)])
            end = middle + length * 0.5 * np.array([np.cos(lean * 0.6), np.sin(lean * 0.6)])
            strokes.append(np.stack([start, middle, end]) * np.array([side, 1.0]))
    hairs = canvas.draw_strokes(strokes, 0.008, 0.0015)
    along = np.linspace(0.02, 0.97, 20)
    x, y = brow_line(identity, f, along)
    bases = [np.stack([side * x, y], -1) for side in (-1, 1)]
    base = canvas.draw_strokes(bases, thickness * 0.62, 0.016)
    blend_color(
        color, srgb_to_linear(identity.brows), np.clip(0.50 * base * identity.brow_weight + 0.78 * hairs, 0, 0.95)
    )


def beard_coverage(identity: Identity, f: FaceFeatures, x: FloatArray, y: FloatArray) -> FloatArray:
    """Returns the density of beard hair in [0, 1] at frontal (x, y); zero on the lips."""
    if identity.beard == "none":
        return np.zeros_like(x)
    side = np.abs(x)
    top, _, bottom = f.lip_borders(x)
    cheek_line = -0.42 - 0.55 * np.clip(0.55 - side, 0, 0.5)
    cheeks = smoothstep(0.07, -0.07, y - cheek_line)
    moustache = gaussian_bump(x, y + 0.20 * side, (0, f.mouth_y + 0.095), (0.29, 0.070)) * smoothstep(
        0.02, -0.02, y - f.nose_y
    )
    moustache = smoothstep(0.25, 0.75, 1.35 * moustache) * smoothstep(0.38, 0.26, side)
    chin = smoothstep(0.30, 0.17, side) * smoothstep(0.0, -0.08, y - f.mouth_y + 0.10)
    ring = np.hypot(x / 0.285, (y - f.mouth_y + 0.06) / 0.27)
    sides = np.exp(-(((ring - 1) / 0.20) ** 2)) * smoothstep(0.06, -0.04, y - f.mouth_y)
    goatee = np.maximum(chin, sides)
    cover = {
        "stubble": np.maximum(cheeks, moustache),
        "full": np.maximum(cheeks, moustache),
        "goatee": np.maximum(goatee, moustache),
        "moustache": moustache,
    }[identity.beard]
    lips = (
        smoothstep(-0.016, 0.006, top - y) * smoothstep(-0.016, 0.006, y - bottom) * (side < f.mouth_half_width * 1.02)
    )
    return cover * (1 - lips)


def _paint_beard(
    identity: Identity, f: FaceFeatures, canvas: FaceCanvas, random: np.random.Generator, color: FloatArray
) -> None:
    if identity.softness < 0.5 and identity.age > 17:
        shadow = smoothstep(0.07, -0.12, canvas.y + 0.50 - 0.35 * (np.abs(canvas.x) - 0.4))
        blend_color(color, srgb_to_linear(mix_colors(identity.skin, (0.30, 0.32, 0.36), 0.5)), 0.16 * shadow)
    cover = beard_coverage(identity, f, canvas.x, canvas.y)
    if not cover.any():
        return
    light = identity.beard == "stubble"
    count = 5200
    roots = np.stack([random.uniform(-0.72, 0.72, count), random.uniform(-1.25, -0.3, count)], -1)
    lengths = random.uniform(0.4, 1, count) * (0.014 if light else 0.055)
    slant = roots[:, 0] * 0.9 + random.normal(0, 0.25, count)
    strokes = [
        np.stack([root, root + length * np.array([np.sin(angle), -np.cos(angle)])])
        for root, length, angle in zip(roots, lengths, slant, strict=True)
    ]
    tint = srgb_to_linear(identity.hair)
    thick = 0.35 if light else 0.80
    blend_color(color, tint * 0.8, np.clip(cover * thick, 0, 1))
    hairs = canvas.draw_strokes(strokes, 0.006) * cover
    blend_color(color, tint * 1.15 + 0.01, (0.4 if light else 0.5) * hairs)


def _paint_wrinkles(
    identity: Identity, f: FaceFeatures, canvas: FaceCanvas, random: np.random.Generator, reach: FloatArray
) -> None:
    """Paints lines on the forehead, beside the eyes and down from the nose."""
    folds, fine = [], []
    for side in (-1, 1):
        start = np.array([0.19, f.nose_y + 0.05])
        end = np.array([f.mouth_half_width + 0.085, f.mouth_y - 0.06])
        share = np.linspace(0, 1, 12)[:, None]
        curve = start + (end - start) * share + np.array([0.03, 0.02]) * np.sin(np.pi * share)
        folds.append(curve * np.array([side, 1.0]))
        for spread in (-0.5, -0.1, 0.3):
            root = np.array([f.eye_x + f.eye_half_width + 0.035, f.eye_y + 0.06 * spread])
            away = root + 0.10 * np.array([np.cos(spread), np.sin(spread)])
            fine.append(np.stack([root, away]) * np.array([side, 1.0]))
    for level in (0.36, 0.44, 0.53):
        x = np.linspace(-0.36, 0.36, 20)
        fine.append(np.stack([x, level + 0.02 * np.cos(3 * x) + 0.008 * np.sin(9 * x + random.uniform(0, 6))], -1))
    fine += [np.array([[side * 0.035, 0.16], [side * 0.03, 0.26]]) for side in (-1, 1)]
    wrinkles = identity.wrinkles
    reach *= 1 - (0.10 + 0.30 * wrinkles) * canvas.draw_strokes(folds, 0.020, 0.014)
    reach *= 1 - 0.34 * wrinkles * canvas.draw_strokes(fine, 0.010, 0.006)

"""Hair: a shell over the head that may hang down to the shoulders, with strands, a hairline and ragged ends."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.head import Head, column_angles
from fantasytalking.portrait_world.identity import Identity
from fantasytalking.portrait_world.meshes import smooth_step, unit
from fantasytalking.portrait_world.rasteriser import FloatArray


@dataclass(frozen=True)
class Style:
    """A way to wear hair.

    `volume` over the scalp in units, `fringe` in rings below the hairline, `length` y of the lowest ends for long hair
    (None ends with the hairline), `waves` their sideways swing, `curl` strength of curls, `parting` side of the
    parting from -1 to 1 (0 = none), `lift` extra height over the forehead, `back` hairline set back, in rings.
    """

    volume: float
    fringe: float = 0.0
    length: float | None = None
    waves: float = 0.0
    curl: float = 0.0
    parting: float = 0.0
    lift: float = 0.0
    back: float = 0.0
    knot: bool = False


STYLES = {
    "long": Style(0.10, length=-1.75, waves=0.02, parting=0.3),
    "bob": Style(0.12, fringe=1.35, length=-0.98, waves=0.01),
    "wavy": Style(0.13, length=-1.60, waves=0.07, curl=0.25, parting=-0.4),
    "bun": Style(0.055, parting=0.2, knot=True),
    "curly": Style(0.27, length=-1.15, waves=0.05, curl=1.0),
    "ponytail": Style(0.06, fringe=0.55, parting=-0.35, knot=True),
    "crop": Style(0.085, fringe=0.20, curl=0.15),
    "parted": Style(0.11, fringe=0.10, parting=0.55, lift=0.03),
    "swept": Style(0.11, lift=0.10, parting=-0.6),
    "curly_short": Style(0.15, fringe=0.15, curl=0.9),
    "buzz": Style(0.018),
    "balding": Style(0.05, back=2.2),
}


def hairline(identity: Identity, angle: FloatArray) -> FloatArray:
    """Ring at which hair begins, over the angle from the front; -1 where there is none."""
    if identity.hair_style == "bald":
        return np.full_like(angle, -1)
    style = STYLES[identity.hair_style]
    side = np.abs(angle)
    recede = 0.5 * np.clip(0.5 - identity.softness, 0, 1) * (1 + identity.wrinkles) + style.back
    front = 3.25 + 0.35 * identity.shape.forehead - recede * smooth_step(0.95, 0.3, side)
    front = front - 0.35 * np.exp(-(((side - 0.5) / 0.2) ** 2)) * (identity.softness < 0.5)
    burns = 6.4 if identity.softness < 0.5 else 5.9
    temple = front + (4.55 - front) * smooth_step(0.45, 1.0, side)
    beside = temple + (burns - temple) * smooth_step(1.02, 1.25, side)
    return (beside + (8.9 - beside) * smooth_step(1.55, 1.9, side)).astype(np.float32)


def hair_shadow(identity: Identity, ring: FloatArray, angle: FloatArray) -> FloatArray:
    """Share of light that reaches the skin below the hair."""
    if identity.hair_style in ("bald", "buzz"):
        return np.ones_like(ring)
    style = STYLES[identity.hair_style]
    below = ring - hairline(identity, angle) - style.fringe * (np.abs(angle) < 1)
    shadow = 1 - 0.42 * np.exp(-np.clip(below, 0, None) / 0.42)
    if style.length is not None:
        shadow = shadow * (1 - 0.45 * smooth_step(0.75, 1.15, np.abs(angle)) * smooth_step(4, 6, ring))
        shadow = shadow * (1 - 0.35 * smooth_step(0.5, 1.2, np.abs(angle)) * smooth_step(11, 13, ring) * (ring < 16))
    return shadow


def scalp_cover(identity: Identity, ring: FloatArray, angle: FloatArray) -> FloatArray:
    """Where the scalp takes the colour of the hair, 0 to 1."""
    return smooth_step(0.10, -0.35, ring - hairline(identity, angle)) * (0.6 if identity.hair_style == "buzz" else 1.0)


@dataclass(frozen=True)
class Hair:
    """A shell of `rows` x `columns` vertices at rest `points` (V, 3), its strand directions and its texture.

    `texels` (H, W, 3): brightness of strands, shift of their highlight, and cover; `carried` (V,) as for the head;
    `faces_kept` marks cells (rows - 1, columns - 1) that are not wholly transparent.
    """

    points: FloatArray
    rows: int
    columns: int
    carried: FloatArray
    texels: FloatArray
    per_cell: int
    faces_kept: NDArray[np.bool_]


SCALP_ROWS = 30
HANGING_ROWS = 22


def make_hair(identity: Identity, head: Head, per_cell: int) -> Hair | None:
    """The hair of a person, None for a bald one."""
    if identity.hair_style == "bald":
        return None
    style = STYLES[identity.hair_style]
    random = np.random.default_rng([7_304, identity.number])
    angles = column_angles().astype(np.float32)
    line = hairline(identity, angles)
    end = line + style.fringe * smooth_step(1.0, 0.8, np.abs(angles)) + 0.35
    share = np.linspace(0, 1, SCALP_ROWS, dtype=np.float32)[:, None]
    if style.length is None:
        rings = share * end
    else:
        rings = share * np.where(np.abs(angles) > 0.98, 6.0, end)
    points = _over_scalp(identity, style, head, rings, angles, line, random)
    if style.length is not None:
        points = np.concatenate([points, _hanging(style, points[-1], angles, random)])
    cover = _cover(style, points, rings, angles, end)
    carried = smooth_step(-1.95, -0.85, points[..., 1]).reshape(-1).astype(np.float32)
    texels = _strands(style, points.shape[0], len(angles), per_cell, cover, random)
    per = per_cell
    rows, columns = points.shape[:2]
    cells = texels[: (rows - 1) * per, : (columns - 1) * per, 2].reshape(rows - 1, per, columns - 1, per)
    kept = cells.max((1, 3)) > 0.02
    return Hair(points.reshape(-1, 3).astype(np.float32), rows, columns, carried, texels, per_cell, kept)


def _over_scalp(
    identity: Identity,
    style: Style,
    head: Head,
    rings: FloatArray,
    angles: FloatArray,
    line: FloatArray,
    random: np.random.Generator,
) -> FloatArray:
    """Points (SCALP_ROWS, columns, 3) that stand off the head by the style's volume."""
    sheet = head.sheets[0]
    surface = np.concatenate([head.sheets[0].of(head.points), head.sheets[1].of(head.points)[1:]])
    ring_of_row = np.concatenate(
        [head.sheets[0].of(head.ring[:, None])[:, 0, 0], head.sheets[1].of(head.ring[:, None])[1:, 0, 0]]
    )
    rows = np.interp(rings, ring_of_row, np.arange(len(ring_of_row))).astype(np.float32)
    columns = np.broadcast_to(np.arange(sheet.columns, dtype=np.float32), rows.shape)
    base = cv2.remap(surface, np.ascontiguousarray(columns), rows, cv2.INTER_LINEAR)
    # Features must not push the hair about: stand off along the line from the middle of the skull.
    outward = unit(base - np.array([0, 0.05, -0.1], np.float32))
    taper = smooth_step(0.0, 1.5, line + style.fringe + 0.3 - rings)
    if style.length is not None:
        taper = np.where(np.abs(angles) > 0.98, 1, taper)
    volume = style.volume * (0.25 + 0.75 * taper) + style.lift * np.exp(-(((rings - 2.6) / 1.1) ** 2)) * np.cos(
        angles
    ).clip(0)
    if style.parting:
        place = style.parting * 0.45
        groove = np.exp(-(((base[..., 0] - place) / 0.06) ** 2)) * (np.abs(angles) < 1.57) * smooth_step(0.3, 1, rings)
        volume = volume * (1 - 0.7 * groove)
    if style.fringe:
        volume = volume + 0.05 * smooth_step(-0.3, 0.3, rings - line) * (np.abs(angles) < 1.05)
    volume = volume + style.curl * style.volume * 0.22 * _lumps(rings, angles, random)
    return base + outward * volume[..., None]


def _lumps(rings: FloatArray, angles: FloatArray, random: np.random.Generator) -> FloatArray:
    """Smooth bumps over the shell, about -1 to 1."""
    total = np.zeros_like(rings)
    for _ in range(6):
        around, down, phase = random.uniform(5, 12), random.uniform(2.5, 5.5), random.uniform(0, 6.3)
        total += np.sin(around * angles + phase) * np.sin(down * rings + 2 * phase)
    return total / 2.5


def _hanging(style: Style, edge: FloatArray, angles: FloatArray, random: np.random.Generator) -> FloatArray:
    """Rows below the scalp (HANGING_ROWS, columns, 3): hair falls from `edge` (columns, 3) to the style's length."""
    assert style.length is not None
    share = np.linspace(0, 1, HANGING_ROWS + 1, dtype=np.float32)[1:, None]
    bottom = style.length + 0.06 * np.sin(3 * angles + random.uniform(0, 6))
    y = edge[:, 1] + (bottom - edge[:, 1]) * share
    phase = random.uniform(0, 6.3)
    swing = style.waves * np.sin(7.5 * y + phase + 1.5 * np.abs(angles)) * smooth_step(0, 0.4, share)
    drawn_in = 1 - 0.10 * np.sin(np.pi * share**0.8) + style.curl * 0.10 * share
    x = edge[:, 0] * drawn_in + np.sign(edge[:, 0]) * swing
    z = edge[:, 2] * (1 - 0.25 * share) + 0.10 * share + 0.4 * swing
    if style.length > -1.2:
        x = x * (1 - 0.10 * share**3)
    return np.stack([x, y, z], -1)


def _cover(style: Style, points: FloatArray, rings: FloatArray, angles: FloatArray, end: FloatArray) -> FloatArray:
    """Signed room (rows, columns) before the hair ends, in rings or tenths of a unit; negative is past the end."""
    room = np.full(points.shape[:2], 3.0, np.float32)
    room[: len(rings)] = end - 0.30 - rings
    if style.length is not None:
        hangs = np.abs(angles) > 0.98
        room[:, hangs] = 3.0
        room[len(rings) :, hangs] = np.minimum(3, (points[len(rings) :, hangs, 1] - (style.length + 0.05)) * 10)
        room[len(rings) :, ~hangs] = -3
    return room


def _strands(
    style: Style, rows: int, columns: int, per_cell: int, room: FloatArray, random: np.random.Generator
) -> FloatArray:
    """Texels (H, W, 3) of brightness, highlight shift and cover, with strands along the rows' direction."""
    height, width = (rows - 1) * per_cell + 1, (columns - 1) * per_cell + 1
    grid_x, grid_y = np.meshgrid(
        np.arange(width, dtype=np.float32) / per_cell, np.arange(height, dtype=np.float32) / per_cell
    )
    bend = style.curl * 0.35 * np.sin(grid_y * 0.9 + 0.5 * grid_x) + 0.15 * np.sin(grid_y * 0.25 + grid_x * 0.3)
    tone = np.zeros((height, width), np.float32)
    for around, down, weight in ((3.0, 0.10, 0.5), (6.0, 0.16, 0.35), (1.0, 0.08, 0.35)):
        down = down * (1 + 4 * style.curl)
        noise = random.standard_normal((int(rows * down) + 4, int(columns * around) + 8)).astype(np.float32)
        tone += weight * cv2.remap(noise, (grid_x + bend + 1) * around, grid_y * down + 1, cv2.INTER_LINEAR)
    ends = cv2.remap(room, grid_x, grid_y, cv2.INTER_LINEAR)
    cover = smooth_step(-0.10, 0.22, ends + 0.22 * tone)
    return np.dstack([1 + 0.30 * np.clip(tone, -2, 2), 0.10 * np.clip(tone, -2, 2), cover]).astype(np.float32)

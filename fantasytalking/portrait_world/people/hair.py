"""Hair: a shell over the head that may hang down to the shoulders, with strands, a hairline and ragged ends."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.image_ops import resampled
from fantasytalking.portrait_world.graphics.mesh import smooth_step, unit
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.head_mesh import Head, column_angles
from fantasytalking.portrait_world.people.identity import Identity


@dataclass(frozen=True)
class Style:
    """A way to wear hair.

    `volume` over the scalp in units; `fringe` in rings below the hairline; `length` y of the lowest ends of long hair
    (None ends with the hairline); `waves` their sideways swing; `curl` strength of curls; `parting` its side from -1
    to 1 (0 = none); `swoop` rings by which hair falls over the forehead away from the parting; `lift` extra height
    over the forehead; `back` rings by which the hairline is set back; `knot` whether there is a bun.
    """

    volume: float
    fringe: float = 0.0
    length: float | None = None
    waves: float = 0.0
    curl: float = 0.0
    parting: float = 0.0
    swoop: float = 0.0
    lift: float = 0.0
    back: float = 0.0
    knot: bool = False


STYLES = {
    "long": Style(0.10, length=-1.75, waves=0.012, parting=0.3, swoop=1.0),
    "bob": Style(0.12, fringe=1.35, length=-0.98, waves=0.006),
    "wavy": Style(0.13, length=-1.60, waves=0.035, curl=0.25, parting=-0.4, swoop=1.2),
    "bun": Style(0.055, parting=0.2, swoop=0.4, knot=True),
    "curly": Style(0.22, length=-1.15, waves=0.03, curl=1.0),
    "ponytail": Style(0.06, fringe=0.55, parting=-0.35, knot=True),
    "crop": Style(0.085, fringe=0.20, curl=0.15),
    "parted": Style(0.11, parting=0.55, swoop=0.9, lift=0.03),
    "swept": Style(0.11, lift=0.10, parting=-0.6, swoop=0.5),
    "curly_short": Style(0.15, fringe=0.15, curl=0.9),
    "buzz": Style(0.018),
    "balding": Style(0.05, back=2.2),
}


def covers_ears(identity: Identity) -> bool:
    """Whether the hair hangs over the ears."""
    return identity.hair_style in STYLES and STYLES[identity.hair_style].length is not None


def hairline(identity: Identity, angle: FloatArray) -> FloatArray:
    """Ring at which hair begins, over the angle from the front; -1 where there is none."""
    if identity.hair_style == "bald":
        return np.full_like(angle, -1)
    style = STYLES[identity.hair_style]
    side = np.abs(angle)
    recede = 0.5 * np.clip(0.5 - identity.softness, 0, 1) * (1 + identity.wrinkles) + style.back
    front = (3.25 if style.fringe else 2.95) + 0.35 * identity.shape.forehead - recede * smooth_step(0.95, 0.3, side)
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
HANGING_FROM = 0.86  # angle from the front, beyond which long hair hangs down
HANGING_ROWS = 22


def make_hair(identity: Identity, head: Head, per_cell: int) -> list[Hair]:
    """The shells of a person's hair, to be drawn in this order; none for a bald one."""
    if identity.hair_style == "bald":
        return []
    style = STYLES[identity.hair_style]
    random = np.random.default_rng([7_304, identity.number])
    angles = column_angles().astype(np.float32)
    line = hairline(identity, angles)
    falls = np.exp(-(((angles + 0.45 * np.sign(style.parting)) / 0.40) ** 2))
    end = line + style.fringe * smooth_step(1.0, 0.8, np.abs(angles)) + style.swoop * falls + 0.35
    share = np.linspace(0, 1, SCALP_ROWS, dtype=np.float32)[:, None]
    hangs = (np.abs(angles) > HANGING_FROM) & (style.length is not None)
    rings = share * np.where(hangs, 6.0, end)
    points = _over_scalp(identity, style, head, rings, angles, line, random)
    if style.length is not None:
        points = np.concatenate([points, _hanging(style, points[-1], angles, random)])
    room = _room(style, points, rings, angles, end)
    shell = _shell(style, points, room, smooth_step(-1.95, -0.85, points[..., 1]), per_cell, random)
    return [_knot(style, per_cell, random), shell] if style.knot else [shell]


def _shell(
    style: Style, points: FloatArray, room: FloatArray, carried: FloatArray, per_cell: int, random: np.random.Generator
) -> Hair:
    rows, columns = points.shape[:2]
    texels = _strands(style, rows, columns, per_cell, room, random)
    cells = texels[: (rows - 1) * per_cell, : (columns - 1) * per_cell, 2]
    kept = cells.reshape(rows - 1, per_cell, columns - 1, per_cell).max((1, 3)) > 0.02
    flat = points.reshape(-1, 3).astype(np.float32)
    return Hair(flat, rows, columns, carried.reshape(-1).astype(np.float32), texels, per_cell, kept)


def _knot(style: Style, per_cell: int, random: np.random.Generator) -> Hair:
    """A bun above the back of the head."""
    turn = np.linspace(-np.pi, np.pi, 25)[None]
    down = np.linspace(0.03, np.pi - 0.03, 13)[:, None]
    ripple = 1 + 0.05 * np.sin(3 * turn + 4 * down)
    x = 0.36 * ripple * np.sin(down) * np.sin(turn)
    y = 1.13 + 0.27 * ripple * np.cos(down) + 0 * turn
    z = -0.40 + 0.30 * ripple * np.sin(down) * np.cos(turn)
    points = np.stack([x, y, z], -1)
    shape = points.shape[:2]
    return _shell(style, points, np.full(shape, 3, np.float32), np.ones(shape, np.float32), per_cell, random)


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
    base = resampled(surface, columns, rows)
    # Features must not push the hair about: stand off along the line from the middle of the skull.
    outward = unit(base - np.array([0, 0.05, -0.1], np.float32))
    taper = smooth_step(0.0, 1.5, line + style.fringe + 0.3 - rings)
    if style.length is not None:
        taper = np.where(np.abs(angles) > HANGING_FROM, 1, taper)
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
    bottom = style.length + 0.05 * np.sin(5 * angles + random.uniform(0, 6)) + 0.03 * np.sin(13 * angles)
    y = edge[:, 1] + (bottom - edge[:, 1]) * share
    phase = random.uniform(0, 6.3, 2)
    swing = np.sin(6.5 * y + phase[0] + 2.0 * np.abs(angles)) + 0.6 * np.sin(11 * y + phase[1] - 3 * np.abs(angles))
    swing = style.waves * swing * smooth_step(0, 0.5, share)
    # Wider below the ears, then drawn in towards the ends.
    spread = 1 + 0.09 * np.sin(np.pi * np.clip(1.15 * share, 0, 1)) - 0.06 * share**3 + 0.10 * style.curl * share
    x = edge[:, 0] * spread + np.sign(edge[:, 0]) * swing
    z = edge[:, 2] * (1 - 0.25 * share) + 0.16 * share + 0.5 * swing
    return np.stack([x, y, z], -1)


def _room(style: Style, points: FloatArray, rings: FloatArray, angles: FloatArray, end: FloatArray) -> FloatArray:
    """How far (rows, columns) the hair still goes on, in rings or tenths of a unit; negative is past its end."""
    room = np.full(points.shape[:2], 3.0, np.float32)
    room[: len(rings)] = end - 0.30 - rings
    if style.length is not None:
        beside = (np.abs(angles) - HANGING_FROM) * 5
        hangs = beside > 0
        room[: len(rings), hangs] = 3.0
        room[len(rings) :] = np.minimum(3, (points[len(rings) :, :, 1] - (style.length + 0.05)) * 10)
        room[len(rings) :] = np.minimum(room[len(rings) :], beside)
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
        tone += weight * resampled(noise, (grid_x + bend + 1) * around, grid_y * down + 1)
    ends = resampled(room, grid_x, grid_y)
    cover = smooth_step(-0.10, 0.22, ends + 0.22 * tone)
    return np.dstack([1 + 0.30 * np.clip(tone, -2, 2), 0.10 * np.clip(tone, -2, 2), cover]).astype(np.float32)

"""Geometry and texture of hair: a shell over the head and down to the shoulders, with strands and ragged ends."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.image_ops import sample_bilinear
from fantasytalking.portrait_world.graphics.mesh import normalize_vectors, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.head_mesh import HeadMesh, column_angles
from fantasytalking.portrait_world.people.identity import Identity


@dataclass(frozen=True)
class HairStyle:
    """Hairstyle.

    `volume`: height over the scalp in units. `fringe`: rings below the hairline. `length`: y of the lowest ends of long
    hair; None ends at the hairline. `waviness`: their sideways swing. `curl`: strength of curls. `parting`: its side
    from -1 to 1, 0 for none. `swoop`: rings by which hair falls over the forehead away from the parting. `lift`: extra
    height over the forehead. `hairline_setback`: rings by which the hairline is set back. `bun`: has a bun.
    """

    volume: float
    fringe: float = 0.0
    length: float | None = None
    waviness: float = 0.0
    curl: float = 0.0
    parting: float = 0.0
    swoop: float = 0.0
    lift: float = 0.0
    hairline_setback: float = 0.0
    bun: bool = False


HAIR_STYLES = {
    "long": HairStyle(0.10, length=-1.75, waviness=0.012, parting=0.3, swoop=1.0),
    "bob": HairStyle(0.12, fringe=1.35, length=-0.98, waviness=0.006),
    "wavy": HairStyle(0.13, length=-1.60, waviness=0.035, curl=0.25, parting=-0.4, swoop=1.2),
    "bun": HairStyle(0.055, parting=0.2, swoop=0.4, bun=True),
    "curly": HairStyle(0.22, length=-1.15, waviness=0.03, curl=1.0),
    "ponytail": HairStyle(0.06, fringe=0.55, parting=-0.35, bun=True),
    "crop": HairStyle(0.085, fringe=0.20, curl=0.15),
    "parted": HairStyle(0.11, parting=0.55, swoop=0.9, lift=0.03),
    "swept": HairStyle(0.11, lift=0.10, parting=-0.6, swoop=0.5),
    "curly_short": HairStyle(0.15, fringe=0.15, curl=0.9),
    "buzz": HairStyle(0.018),
    "balding": HairStyle(0.05, hairline_setback=2.2),
}


def covers_ears(identity: Identity) -> bool:
    """Whether the hair covers the ears."""
    return identity.hair_style in HAIR_STYLES and HAIR_STYLES[identity.hair_style].length is not None


def hairline_ring(identity: Identity, angle: FloatArray) -> FloatArray:
    """Returns the ring at which hair begins, by angle from the front; -1 where there is none."""
    if identity.hair_style == "bald":
        return np.full_like(angle, -1)
    style = HAIR_STYLES[identity.hair_style]
    side = np.abs(angle)
    recede = 0.5 * np.clip(0.5 - identity.softness, 0, 1) * (1 + identity.wrinkles) + style.hairline_setback
    front = (3.25 if style.fringe else 2.95) + 0.35 * identity.shape.forehead - recede * smoothstep(0.95, 0.3, side)
    front = front - 0.35 * np.exp(-(((side - 0.5) / 0.2) ** 2)) * (identity.softness < 0.5)
    burns = 6.4 if identity.softness < 0.5 else 5.9
    temple = front + (4.55 - front) * smoothstep(0.45, 1.0, side)
    beside = temple + (burns - temple) * smoothstep(1.02, 1.25, side)
    return (beside + (8.9 - beside) * smoothstep(1.55, 1.9, side)).astype(np.float32)


def hair_shadow(identity: Identity, ring: FloatArray, angle: FloatArray) -> FloatArray:
    """Returns the fraction of light that reaches the skin below the hair."""
    if identity.hair_style in ("bald", "buzz"):
        return np.ones_like(ring)
    style = HAIR_STYLES[identity.hair_style]
    below = ring - hairline_ring(identity, angle) - style.fringe * (np.abs(angle) < 1)
    shadow = 1 - 0.42 * np.exp(-np.clip(below, 0, None) / 0.42)
    if style.length is not None:
        shadow = shadow * (1 - 0.45 * smoothstep(0.75, 1.15, np.abs(angle)) * smoothstep(4, 6, ring))
        shadow = shadow * (1 - 0.35 * smoothstep(0.5, 1.2, np.abs(angle)) * smoothstep(11, 13, ring) * (ring < 16))
    return shadow


def scalp_coverage(identity: Identity, ring: FloatArray, angle: FloatArray) -> FloatArray:
    """Returns the weight in [0, 1] of the hair's color on the scalp."""
    return smoothstep(0.10, -0.35, ring - hairline_ring(identity, angle)) * (
        0.6 if identity.hair_style == "buzz" else 1.0
    )


@dataclass(frozen=True)
class HairMesh:
    """Shell of `rows` x `columns` vertices with resting `points` (V, 3), strand directions and texture.

    `texels` (H, W, 3): brightness of strands, shift of their highlight, and coverage; `head_weight` (V,) as for the
    head; `visible_cells` marks cells (rows - 1, columns - 1) that are not fully transparent.
    """

    points: FloatArray
    rows: int
    columns: int
    head_weight: FloatArray
    texels: FloatArray
    per_cell: int
    visible_cells: NDArray[np.bool_]


SCALP_ROWS = 30
HANGING_ANGLE = 0.86  # angle from the front, beyond which long hair hangs down
HANGING_ROWS = 22


def make_hair(identity: Identity, head: HeadMesh, per_cell: int) -> list[HairMesh]:
    """Returns the shells of a person's hair in drawing order; none for a bald person."""
    if identity.hair_style == "bald":
        return []
    style = HAIR_STYLES[identity.hair_style]
    random = np.random.default_rng([7_304, identity.number])
    angles = column_angles().astype(np.float32)
    line = hairline_ring(identity, angles)
    falls = np.exp(-(((angles + 0.45 * np.sign(style.parting)) / 0.40) ** 2))
    end = line + style.fringe * smoothstep(1.0, 0.8, np.abs(angles)) + style.swoop * falls + 0.35
    share = np.linspace(0, 1, SCALP_ROWS, dtype=np.float32)[:, None]
    hangs = (np.abs(angles) > HANGING_ANGLE) & (style.length is not None)
    rings = share * np.where(hangs, 6.0, end)
    points = _scalp_rows(identity, style, head, rings, angles, line, random)
    if style.length is not None:
        points = np.concatenate([points, _hanging_rows(style, points[-1], angles, random)])
    room = _remaining_length(style, points, rings, angles, end)
    shell = _make_shell(style, points, room, smoothstep(-1.95, -0.85, points[..., 1]), per_cell, random)
    return [_make_bun(style, per_cell, random), shell] if style.bun else [shell]


def _make_shell(
    style: HairStyle,
    points: FloatArray,
    remaining_length: FloatArray,
    head_weight: FloatArray,
    per_cell: int,
    random: np.random.Generator,
) -> HairMesh:
    rows, columns = points.shape[:2]
    texels = _strand_texels(style, rows, columns, per_cell, remaining_length, random)
    cells = texels[: (rows - 1) * per_cell, : (columns - 1) * per_cell, 2]
    kept = cells.reshape(rows - 1, per_cell, columns - 1, per_cell).max((1, 3)) > 0.02
    flat = points.reshape(-1, 3).astype(np.float32)
    return HairMesh(flat, rows, columns, head_weight.reshape(-1).astype(np.float32), texels, per_cell, kept)


def _make_bun(style: HairStyle, per_cell: int, random: np.random.Generator) -> HairMesh:
    """Returns a bun above the back of the head."""
    turn = np.linspace(-np.pi, np.pi, 25)[None]
    down = np.linspace(0.03, np.pi - 0.03, 13)[:, None]
    ripple = 1 + 0.05 * np.sin(3 * turn + 4 * down)
    x = 0.36 * ripple * np.sin(down) * np.sin(turn)
    y = 1.13 + 0.27 * ripple * np.cos(down) + 0 * turn
    z = -0.40 + 0.30 * ripple * np.sin(down) * np.cos(turn)
    points = np.stack([x, y, z], -1)
    shape = points.shape[:2]
    return _make_shell(style, points, np.full(shape, 3, np.float32), np.ones(shape, np.float32), per_cell, random)


def _scalp_rows(
    identity: Identity,
    style: HairStyle,
    head: HeadMesh,
    rings: FloatArray,
    angles: FloatArray,
    line: FloatArray,
    random: np.random.Generator,
) -> FloatArray:
    """Returns points (SCALP_ROWS, columns, 3) offset from the head by the style's volume."""
    sheet = head.grids[0]
    surface = np.concatenate([head.grids[0].view(head.points), head.grids[1].view(head.points)[1:]])
    ring_of_row = np.concatenate(
        [head.grids[0].view(head.ring[:, None])[:, 0, 0], head.grids[1].view(head.ring[:, None])[1:, 0, 0]]
    )
    rows = np.interp(rings, ring_of_row, np.arange(len(ring_of_row))).astype(np.float32)
    columns = np.broadcast_to(np.arange(sheet.columns, dtype=np.float32), rows.shape)
    base = sample_bilinear(surface, columns, rows)
    # Features must not push the hair about: stand off along the line from the middle of the skull.
    outward = normalize_vectors(base - np.array([0, 0.05, -0.1], np.float32))
    taper = smoothstep(0.0, 1.5, line + style.fringe + 0.3 - rings)
    if style.length is not None:
        taper = np.where(np.abs(angles) > HANGING_ANGLE, 1, taper)
    volume = style.volume * (0.25 + 0.75 * taper) + style.lift * np.exp(-(((rings - 2.6) / 1.1) ** 2)) * np.cos(
        angles
    ).clip(0)
    if style.parting:
        place = style.parting * 0.45
        groove = np.exp(-(((base[..., 0] - place) / 0.06) ** 2)) * (np.abs(angles) < 1.57) * smoothstep(0.3, 1, rings)
        volume = volume * (1 - 0.7 * groove)
    if style.fringe:
        volume = volume + 0.05 * smoothstep(-0.3, 0.3, rings - line) * (np.abs(angles) < 1.05)
    volume = volume + style.curl * style.volume * 0.22 * _curl_bumps(rings, angles, random)
    return base + outward * volume[..., None]


def _curl_bumps(rings: FloatArray, angles: FloatArray, random: np.random.Generator) -> FloatArray:
    """Returns smooth bumps over the shell, about -1 to 1."""
    total = np.zeros_like(rings)
    for _ in range(6):
        around, down, phase = random.uniform(5, 12), random.uniform(2.5, 5.5), random.uniform(0, 6.3)
        total += np.sin(around * angles + phase) * np.sin(down * rings + 2 * phase)
    return total / 2.5


def _hanging_rows(style: HairStyle, edge: FloatArray, angles: FloatArray, random: np.random.Generator) -> FloatArray:
    """Returns the rows below the scalp (HANGING_ROWS, columns, 3), from `edge` (columns, 3) to the style's length."""
    assert style.length is not None
    share = np.linspace(0, 1, HANGING_ROWS + 1, dtype=np.float32)[1:, None]
    bottom = style.length + 0.05 * np.sin(5 * angles + random.uniform(0, 6)) + 0.03 * np.sin(13 * angles)
    y = edge[:, 1] + (bottom - edge[:, 1]) * share
    phase = random.uniform(0, 6.3, 2)
    swing = np.sin(6.5 * y + phase[0] + 2.0 * np.abs(angles)) + 0.6 * np.sin(11 * y + phase[1] - 3 * np.abs(angles))
    swing = style.waviness * swing * smoothstep(0, 0.5, share)
    # Wider below the ears, then drawn in toward the ends.
    spread = 1 + 0.09 * np.sin(np.pi * np.clip(1.15 * share, 0, 1)) - 0.06 * share**3 + 0.10 * style.curl * share
    x = edge[:, 0] * spread + np.sign(edge[:, 0]) * swing
    z = edge[:, 2] * (1 - 0.25 * share) + 0.16 * share + 0.5 * swing
    return np.stack([x, y, z], -1)


def _remaining_length(
    style: HairStyle, points: FloatArray, rings: FloatArray, angles: FloatArray, end: FloatArray
) -> FloatArray:
    """Returns the distance (rows, columns) to the end of the hair in rings or tenths of a unit; negative beyond it."""
    room = np.full(points.shape[:2], 3.0, np.float32)
    room[: len(rings)] = end - 0.30 - rings
    if style.length is not None:
        beside = (np.abs(angles) - HANGING_ANGLE) * 5
        hangs = beside > 0
        room[: len(rings), hangs] = 3.0
        room[len(rings) :] = np.minimum(3, (points[len(rings) :, :, 1] - (style.length + 0.05)) * 10)
        room[len(rings) :] = np.minimum(room[len(rings) :], beside)
    return room


def _strand_texels(
    style: HairStyle, rows: int, columns: int, per_cell: int, remaining_length: FloatArray, random: np.random.Generator
) -> FloatArray:
    """Returns texels (H, W, 3) of brightness, highlight shift and coverage, with strands along the rows' direction."""
    height, width = (rows - 1) * per_cell + 1, (columns - 1) * per_cell + 1
    grid_x, grid_y = np.meshgrid(
        np.arange(width, dtype=np.float32) / per_cell, np.arange(height, dtype=np.float32) / per_cell
    )
    bend = style.curl * 0.35 * np.sin(grid_y * 0.9 + 0.5 * grid_x) + 0.15 * np.sin(grid_y * 0.25 + grid_x * 0.3)
    tone = np.zeros((height, width), np.float32)
    for around, down, weight in ((3.0, 0.10, 0.5), (6.0, 0.16, 0.35), (1.0, 0.08, 0.35)):
        down = down * (1 + 4 * style.curl)
        noise = random.standard_normal((int(rows * down) + 4, int(columns * around) + 8)).astype(np.float32)
        tone += weight * sample_bilinear(noise, (grid_x + bend + 1) * around, grid_y * down + 1)
    ends = sample_bilinear(remaining_length, grid_x, grid_y)
    cover = smoothstep(-0.10, 0.22, ends + 0.22 * tone)
    return np.dstack([1 + 0.30 * np.clip(tone, -2, 2), 0.10 * np.clip(tone, -2, 2), cover]).astype(np.float32)

"""Geometry of the mouth's interior behind the lips: throat, both rows of teeth and tongue."""

from typing import NamedTuple

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.head_mesh import HeadMesh

WALL_GRID_SIZE, TEETH_GRID_SIZE, TONGUE_GRID_SIZE = (7, 9), (5, 33), (7, 11)  # rows, columns


class MouthGrids(NamedTuple):
    """Vertices of the patches, each (rows, columns, 3)."""

    wall: FloatArray
    upper_teeth: FloatArray
    lower_teeth: FloatArray
    tongue: FloatArray


def make_mouth_grids(head: HeadMesh, state: FaceState, gap: float, lip_depth: float, chin_depth: float) -> MouthGrids:
    """Returns the mouth's interior for a gap between the inner lips in units.

    `lip_depth` and `chin_depth` are z of the resting face at the lips' seam and just below the lower lip, where nothing
    of the mouth may intersect the skin.
    """
    f = head.features
    drop = 0.70 * gap
    back = 0.20 * gap
    lower_depth = min(lip_depth - 0.125, chin_depth - 0.075)
    line = f.mouth_y
    return MouthGrids(
        _wall(f.mouth_half_width, line, drop, lower_depth + 0.10),
        _teeth(0.80 * f.mouth_half_width, line + 0.13, line + 0.010 - 0.014 * max(state.smile, 0.0), lip_depth - 0.085),
        _teeth(0.70 * f.mouth_half_width, line - 0.035 - drop, line - 0.105 - drop, lower_depth - back),
        _tongue(f.mouth_half_width, line - 0.035 - drop, line, state.tongue, lower_depth + 0.11 - back),
    )


def _wall(half_width: float, line: float, drop: float, depth: float) -> FloatArray:
    across = np.linspace(-1.02, 1.02, WALL_GRID_SIZE[1])[None] * np.ones((WALL_GRID_SIZE[0], 1))
    down = np.linspace(0, 1, WALL_GRID_SIZE[0])[:, None] * np.ones((1, WALL_GRID_SIZE[1]))
    y = line + 0.14 - down * (0.26 + drop)
    z = depth - 0.34 - 0.16 * across**2 - 0.10 * down
    return np.stack([half_width * across, y, z], -1).astype(np.float32)


def _teeth(half_width: float, top: float, bottom: float, depth: float) -> FloatArray:
    across = np.linspace(-1, 1, TEETH_GRID_SIZE[1])[None] * np.ones((TEETH_GRID_SIZE[0], 1))
    down = np.linspace(0, 1, TEETH_GRID_SIZE[0])[:, None] * np.ones((1, TEETH_GRID_SIZE[1]))
    y = top + (bottom - top) * down
    z = depth - 0.19 * np.abs(across) ** 2.4 - 0.012 * np.abs(down - 0.5)
    return np.stack([half_width * across, y, z], -1).astype(np.float32)


def _tongue(half_width: float, floor: float, line: float, raised: float, depth: float) -> FloatArray:
    across = np.linspace(-1, 1, TONGUE_GRID_SIZE[1])[None] * np.ones((TONGUE_GRID_SIZE[0], 1))
    down = np.linspace(0, 1, TONGUE_GRID_SIZE[0])[:, None] * np.ones((1, TONGUE_GRID_SIZE[1]))
    resting = floor - 0.020
    tip = resting + (line + 0.01 - resting) * raised
    dome = np.sqrt(np.clip(1 - across**2, 0, 1))
    y = (tip + 0.02) - 0.13 * down**1.5 - 0.045 * (1 - dome) - 0.012 * np.exp(-((across / 0.16) ** 2)) * (1 - down)
    z = depth - 0.27 + 0.13 * np.sin(np.pi * np.clip(down * 0.8, 0, 0.5)) * dome + 0.035 * raised
    return np.stack([0.62 * half_width * across, y, z], -1).astype(np.float32)


def tooth_albedo(across: FloatArray, down: FloatArray, upper: bool) -> FloatArray:
    """Returns the linear color (N, 3) of a row of teeth at its width [-1, 1] and height [0, 1]; zero between teeth.

    `down` runs from the gum to the edge in both rows.
    """
    borders = np.array([0.0, 0.24, 0.43, 0.62, 0.80, 1.0]) if upper else np.array([0.0, 0.17, 0.35, 0.54, 0.75, 1.0])
    side = np.clip(np.abs(across), 0, 0.999)
    index = np.searchsorted(borders, side, side="right") - 1
    low, high = borders[index], borders[index + 1]
    within = (side - low) / (high - low)
    gap = smoothstep(0.0, 0.10, np.minimum(within, 1 - within))
    gum = smoothstep(0.30, 0.20, down + 0.12 * (2 * within - 1) ** 2)
    enamel = np.array([0.90, 0.87, 0.80]) ** 2 * (0.62 + 0.38 * gap)[:, None] * (1 - 0.42 * side**1.5)[:, None]
    pink = np.array([0.74, 0.40, 0.40]) ** 2
    return (enamel * (1 - gum[:, None]) + pink * gum[:, None]).astype(np.float32)

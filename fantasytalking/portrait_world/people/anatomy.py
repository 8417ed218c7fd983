"""Mesh of a person, joined from all surface patches, and its deformation by a state."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from fantasytalking.portrait_world.graphics.mesh import Grid, normalize_vectors
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray, IntArray
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people import eyes
from fantasytalking.portrait_world.people import mouth_interior as mouth
from fantasytalking.portrait_world.people.ears import make_ear
from fantasytalking.portrait_world.people.face_deformation import FaceRig
from fantasytalking.portrait_world.people.garment import garment_thickness
from fantasytalking.portrait_world.people.hair import covers_ears
from fantasytalking.portrait_world.people.head_mesh import HeadMesh, make_head_mesh
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.people.skin_texture import texture_rows


class SurfacePart(IntEnum):
    """Material of a triangle."""

    SKIN = 0
    INNER_LIP = 1
    LID_MARGIN = 2
    EYE = 3
    MOUTH_WALL = 4
    UPPER_TEETH = 5
    LOWER_TEETH = 6
    TONGUE = 7
    EAR = 8


class SurfacePatch(NamedTuple):
    """Grid of the mesh with its material."""

    grid: Grid
    part: SurfacePart


class Anatomy:
    """Mesh of one person.

    `faces` (F, 3) with their `parts` (F,); `vertex_attributes` (V, 5): texture column and row, then three values whose
    meaning depends on the part (direction on an eye; position across and down on teeth; light that reaches an ear).
    """

    def __init__(self, identity: Identity) -> None:
        bare = make_head_mesh(identity)
        self.head = _add_clothing(identity, bare)
        self.rig = FaceRig(self.head)
        head = self.head
        columns = head.grids[0].columns
        front = np.abs(head.angle[:columns]) < 1.3
        lip_columns = np.flatnonzero((np.abs(self._seam(2, 0)[:, 0]) < 0.99 * head.features.mouth_half_width) & front)
        self._lips = slice(int(lip_columns[0]) - 1, int(lip_columns[-1]) + 2)
        self._lids = [self._lid_columns(side) for side in (-1, 1)]
        bare_ears = not covers_ears(identity)
        self._ears = [make_ear(identity, self._half_width_at_ears(), side) for side in (-1, 1)] if bare_ears else []
        self._lip_depth = head.surface_depth(0.0, head.features.mouth_y)
        self._chin_depth = head.surface_depth(0.0, head.features.mouth_y - head.features.lower_lip - 0.05)

        middle = len(head.grids[0].view(head.points)) + head.grids[1].rows
        rows = texture_rows(head)
        skin = np.zeros((len(head.points), 5), np.float32)
        skin[:, 0] = np.tile(np.arange(columns), len(head.points) // columns)
        skin[:, 1] = rows
        self.patches: list[SurfacePatch] = [SurfacePatch(grid, SurfacePart.SKIN) for grid in head.grids]
        fixed = [skin]

        def add(part: SurfacePart, values: FloatArray) -> None:
            start = sum(len(block) for block in fixed)
            self.patches.append(SurfacePatch(Grid(start, values.shape[0], values.shape[1]), part))
            fixed.append(values.reshape(-1, 5).astype(np.float32))

        for seam_row in (middle - 1, middle):
            add(SurfacePart.INNER_LIP, self._strip(self._lips, seam_row))
        for lid in self._lids:
            for seam_row in (head.grids[0].rows - 1, head.grids[0].rows):
                add(SurfacePart.LID_MARGIN, self._strip(lid, seam_row))
        directions = eyes.eyeball_directions()
        for _ in range(2):
            add(SurfacePart.EYE, np.concatenate([np.zeros_like(directions[..., :2]), directions], -1))
        for part, size in (
            (SurfacePart.MOUTH_WALL, mouth.WALL_GRID_SIZE),
            (SurfacePart.UPPER_TEETH, mouth.TEETH_GRID_SIZE),
            (SurfacePart.LOWER_TEETH, mouth.TEETH_GRID_SIZE),
            (SurfacePart.TONGUE, mouth.TONGUE_GRID_SIZE),
        ):
            add(part, _grid_coordinates(size))
        for points, reach in self._ears:
            add(SurfacePart.EAR, np.dstack([np.zeros((*points.shape[:2], 2)), reach, reach, reach]))
        self.vertex_attributes = np.concatenate(fixed)
        self.head_weight = np.concatenate(
            [head.head_weight, np.ones(len(self.vertex_attributes) - len(head.points), np.float32)]
        )
        faces = [sheet.grid.faces() for sheet in self.patches]
        self.faces: IntArray = np.concatenate(faces)
        self.parts = np.concatenate(
            [np.full(len(block), sheet.part, np.int8) for block, sheet in zip(faces, self.patches, strict=True)]
        )

    def deform(self, state: FaceState) -> tuple[FloatArray, FloatArray]:
        """Returns points and unit normals (V, 3) with this expression, head and shoulders at rest."""
        points = self.rig.deform(state)
        f = self.head.features
        gap = self.rig.lip_gap(state.mouth_open)
        blocks = [points]
        upper, lower = self._seam_of(points, 1, -1)[self._lips], self._seam_of(points, 2, 0)[self._lips]
        blocks.append(np.stack([upper, upper + np.array([0, -0.004, -0.035]), upper + np.array([0, 0.02, -0.12])]))
        blocks.append(
            np.stack([lower, lower + np.array([0, 0.006, -0.035]), lower + np.array([0, -0.03, -0.12])])[::-1]
        )
        for lid in self._lids:
            upper, lower = self._seam_of(points, 0, -1)[lid], self._seam_of(points, 1, 0)[lid]
            blocks.append(np.stack([upper, upper + np.array([0, 0.002, -0.02]), upper + np.array([0, 0.006, -0.06])]))
            blocks.append(
                np.stack([lower, lower + np.array([0, -0.002, -0.02]), lower + np.array([0, -0.006, -0.06])])[::-1]
            )
        blocks += [center + f.eyeball * eyes.eyeball_directions() for center in self.head.eye_centers]
        blocks += list(mouth.make_mouth_grids(self.head, state, gap, self._lip_depth, self._chin_depth))
        blocks += [ear for ear, _ in self._ears]
        points = np.concatenate([block.reshape(-1, 3) for block in blocks]).astype(np.float32)
        return points, self._normals(points)

    def _normals(self, points: FloatArray) -> FloatArray:
        normals = [sheet.grid.normals(points, wraps=sheet.part == SurfacePart.SKIN) for sheet in self.patches]
        for above, below in ((0, 1), (1, 2)):
            # Where the edges of a slit touch, the surface is one.
            first, second = self.patches[above].grid.view(points)[-1], self.patches[below].grid.view(points)[0]
            joined = normalize_vectors(normals[above][-1] + normals[below][0])
            share = np.exp(-((np.linalg.norm(first - second, axis=1) / 0.02) ** 2))[:, None]
            for sheet, row in ((above, -1), (below, 0)):
                normals[sheet][row] = normalize_vectors(normals[sheet][row] * (1 - share) + joined * share)
        return np.concatenate([block.reshape(-1, 3) for block in normals]).astype(np.float32)

    def _seam(self, patch: int, row: int) -> FloatArray:
        return self._seam_of(self.head.points, patch, row)

    def _seam_of(self, points: FloatArray, patch: int, row: int) -> FloatArray:
        return self.head.grids[patch].view(points)[row]

    def _lid_columns(self, side: int) -> slice:
        f = self.head.features
        x = self._seam(1, 0)[:, 0] * side
        front = np.abs(self.head.angle[: len(x)]) < 1.3
        inside = np.flatnonzero((np.abs(x - f.eye_x) < f.eye_half_width) & front)
        return slice(int(inside[0]) - 1, int(inside[-1]) + 2)

    def _strip(self, columns: slice, texture_row: int) -> FloatArray:
        count = columns.stop - columns.start
        values = np.zeros((3, count, 5), np.float32)
        values[..., 0] = np.arange(columns.start, columns.stop)
        values[..., 1] = texture_row
        return values

    def _half_width_at_ears(self) -> float:
        side = np.abs(np.abs(self.head.angle) - np.pi / 2) < 0.12
        return float(np.abs(self.head.points[side & (np.abs(self.head.ring - 6.5) < 0.7), 0]).mean())


def _grid_coordinates(size: tuple[int, int]) -> FloatArray:
    across, down = np.meshgrid(np.linspace(-1, 1, size[1]), np.linspace(0, 1, size[0]))
    zero = np.zeros_like(across)
    return np.dstack([zero, zero, across, down, zero]).astype(np.float32)


def _add_clothing(identity: Identity, head: HeadMesh) -> HeadMesh:
    """Returns the head with cloth offset from its shoulders."""
    thickness = garment_thickness(identity, head.ring, head.angle, head.points[:, 0])
    normals = np.concatenate([sheet.normals(head.points, wraps=True).reshape(-1, 3) for sheet in head.grids])
    points = (head.points + normals * thickness[:, None]).astype(np.float32)
    return HeadMesh(head.features, points, head.ring, head.angle, head.head_weight, head.grids)

"""Draws a head of hair: strands with the two soft highlights of fibres, over whatever lies behind."""

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import samples_at
from fantasytalking.portrait_world.graphics.mesh import Grid, difference, smooth_step, unit
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray, rasterise
from fantasytalking.portrait_world.people.face_paint import linear
from fantasytalking.portrait_world.people.hair import STYLES, Hair
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.camera import Camera, Posture
from fantasytalking.portrait_world.render.lighting import VIEW, Lamps, displayed


class HairShell:
    """The hair of one person, ready to be drawn."""

    def __init__(self, identity: Identity, hair: Hair, lamps: Lamps) -> None:
        self.hair = hair
        self.lamps = lamps
        self.albedo = linear(identity.hair)
        self.curl = STYLES[identity.hair_style].curl
        grid = Grid(0, hair.rows, hair.columns)
        kept = hair.faces_kept.reshape(-1)
        self.faces = grid.faces()[np.concatenate([kept, kept])]
        self.normals = grid.normals(hair.points, wraps=True).reshape(-1, 3)
        self.tangents = unit(difference(grid.of(hair.points), 0)).reshape(-1, 3)
        columns, rows = np.meshgrid(np.arange(hair.columns), np.arange(hair.rows))
        self.places = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)

    def draw(self, picture: FloatArray, camera: Camera, posture: Posture, depth: FloatArray) -> None:
        """Blends the nearest hair over a picture (H, W, 3) where it is nearer than `depth` (H * W,); in place."""
        height, width = picture.shape[:2]
        points = posture.move(self.hair.points, self.hair.carried)
        projected = camera.project(points)
        normals = posture.turn(self.normals, self.hair.carried)
        tangents = posture.turn(self.tangents, self.hair.carried)
        values = np.concatenate([self.places, normals, tangents, points[:, 1:3]], 1)
        flat = picture.reshape(-1, 3)
        # First the inside of the hair behind the neck, then the outside, so that gaps in it show the inside.
        for inner in (True, False):
            faces = self.faces[:, ::-1] if inner else self.faces
            fragments = rasterise(projected, faces, depth.copy() if inner else depth, (height, width))
            if len(fragments.pixel):
                attributes = fragments.interpolate(faces, values)
                texels = self._texels(attributes[:, 0], attributes[:, 1])
                colour = displayed(self._radiance(attributes, texels, inner))
                behind = flat[fragments.pixel]
                flat[fragments.pixel] = behind + (colour - behind) * texels[:, 2:3]

    def _texels(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        return samples_at(self.hair.texels, columns * self.hair.per_cell, rows * self.hair.per_cell)

    def _radiance(self, attributes: FloatArray, texels: FloatArray, inner: bool) -> FloatArray:
        normals, tangents = unit(attributes[:, 2:5]), unit(attributes[:, 5:8])
        normals = -normals if inner else normals
        tangents = unit(tangents + normals * texels[:, 1:2] * 1.6)
        key = self.lamps.key
        wrapped = np.maximum((normals @ key + 0.35) / 1.35, 0)
        across = np.sqrt(np.maximum(1 - (tangents @ key) ** 2, 0))
        light = 0.75 * wrapped * (0.35 + 0.65 * across) + 0.24 + 0.12 * normals[:, 1]
        light += 0.22 * np.maximum(normals @ self.lamps.fill, 0)
        light = light * texels[:, 0] * (0.16 if inner else 1.0)
        # Hair that hangs behind the face lies in its shade.
        light = light * (0.55 + 0.45 * smooth_step(-0.7, 0.25, attributes[:, 9]))
        half = unit(key + VIEW)
        along = tangents @ half
        fibre = np.sqrt(np.maximum(1 - along**2, 0))
        gleam = wrapped * (not inner) * (0.085 * fibre**60 + 0.10 * fibre**14 * np.sqrt(self.albedo.mean()))
        rim = 0.30 * np.maximum(1 - normals[:, 2], 0) ** 2 * np.maximum(normals @ self.lamps.rim, 0)
        tint = 0.5 * self.albedo / max(float(self.albedo.max()), 1e-3) + 0.5
        bright = light[:, None] * self.albedo
        return bright + ((gleam * (1 - 0.4 * self.curl))[:, None] * tint) + rim[:, None] * (0.3 + self.albedo)

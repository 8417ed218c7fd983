"""Draws a head of hair: strands with the two soft highlights of fibres, over whatever lies behind."""

import cv2
import numpy as np

from fantasytalking.portrait_world.face_paint import linear
from fantasytalking.portrait_world.hair import STYLES, Hair
from fantasytalking.portrait_world.identity import Identity
from fantasytalking.portrait_world.meshes import Grid, difference, smooth_step, unit
from fantasytalking.portrait_world.pose import Camera, Posture
from fantasytalking.portrait_world.rasteriser import FloatArray, Fragments, rasterise
from fantasytalking.portrait_world.shading import VIEW, Lamps, displayed


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
        fragments = rasterise(camera.project(points), self.faces, depth, (height, width), two_sided=True)
        if not len(fragments.pixel):
            return
        normals = posture.turn(self.normals, self.hair.carried)
        tangents = posture.turn(self.tangents, self.hair.carried)
        values = np.concatenate([self.places, normals, tangents, points[:, 1:3]], 1)
        attributes = fragments.interpolate(self.faces, values)
        texels = self._texels(attributes[:, 0], attributes[:, 1])
        colour = displayed(self._radiance(attributes, texels))
        flat = picture.reshape(-1, 3)
        behind = flat[fragments.pixel]
        flat[fragments.pixel] = behind + (colour - behind) * texels[:, 2:3]

    def _texels(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        count, width = len(columns), 4096
        padded = -(-count // width) * width
        maps = np.zeros((2, padded), np.float32)
        maps[0, :count], maps[1, :count] = columns * self.hair.per_cell, rows * self.hair.per_cell
        maps = maps.reshape(2, -1, width)
        return cv2.remap(self.hair.texels, maps[0], maps[1], cv2.INTER_LINEAR).reshape(padded, 3)[:count]

    def _radiance(self, attributes: FloatArray, texels: FloatArray) -> FloatArray:
        normals, tangents = unit(attributes[:, 2:5]), unit(attributes[:, 5:8])
        inner = normals[:, 2] < 0
        normals = np.where(inner[:, None], -normals, normals)
        tangents = unit(tangents + normals * texels[:, 1:2] * 1.6)
        key = self.lamps.key
        wrapped = np.maximum((normals @ key + 0.35) / 1.35, 0)
        across = np.sqrt(np.maximum(1 - (tangents @ key) ** 2, 0))
        light = 0.75 * wrapped * (0.35 + 0.65 * across) + 0.24 + 0.12 * normals[:, 1]
        light += 0.22 * np.maximum(normals @ self.lamps.fill, 0)
        light = light * texels[:, 0] * np.where(inner, 0.30, 1.0)
        # Hair that hangs behind the face lies in its shade.
        light = light * (0.55 + 0.45 * smooth_step(-0.7, 0.25, attributes[:, 9]))
        half = unit(key + VIEW)
        along = tangents @ half
        fibre = np.sqrt(np.maximum(1 - along**2, 0))
        gleam = wrapped * ~inner * (0.085 * fibre**60 + 0.10 * fibre**14 * np.sqrt(self.albedo.mean()))
        rim = 0.30 * np.maximum(1 - normals[:, 2], 0) ** 2 * np.maximum(normals @ self.lamps.rim, 0)
        tint = 0.5 * self.albedo / max(float(self.albedo.max()), 1e-3) + 0.5
        bright = light[:, None] * self.albedo
        return bright + ((gleam * (1 - 0.4 * self.curl))[:, None] * tint) + rim[:, None] * (0.3 + self.albedo)

"""Draws hair: strands with two soft fiber highlights, blended over the image."""

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import sample_points
from fantasytalking.portrait_world.graphics.mesh import Grid, central_difference, normalize_vectors, smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray, rasterize
from fantasytalking.portrait_world.people.face_paint import srgb_to_linear
from fantasytalking.portrait_world.people.hair import HAIR_STYLES, HairMesh
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.camera import Camera, Posture
from fantasytalking.portrait_world.render.lighting import VIEW_DIRECTION, Lights, tone_map


class HairRenderer:
    """Meshes and textures of one person's hair."""

    def __init__(self, identity: Identity, hair: HairMesh, lights: Lights) -> None:
        self.hair = hair
        self.lights = lights
        self.albedo = srgb_to_linear(identity.hair)
        self.curl = HAIR_STYLES[identity.hair_style].curl
        grid = Grid(0, hair.rows, hair.columns)
        kept = hair.visible_cells.reshape(-1)
        self.faces = grid.faces()[np.concatenate([kept, kept])]
        self.normals = grid.normals(hair.points, wraps=True).reshape(-1, 3)
        self.tangents = normalize_vectors(central_difference(grid.view(hair.points), 0)).reshape(-1, 3)
        columns, rows = np.meshgrid(np.arange(hair.columns), np.arange(hair.rows))
        self.grid_positions = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float32)

    def draw(self, image: FloatArray, camera: Camera, posture: Posture, depth: FloatArray) -> None:
        """Blends the nearest hair over an image (H, W, 3), in place, where it is nearer than `depth` (H * W,)."""
        height, width = image.shape[:2]
        points = posture.transform_points(self.hair.points, self.hair.head_weight)
        projected = camera.project(points)
        normals = posture.transform_normals(self.normals, self.hair.head_weight)
        tangents = posture.transform_normals(self.tangents, self.hair.head_weight)
        values = np.concatenate([self.grid_positions, normals, tangents, points[:, 1:3]], 1)
        flat = image.reshape(-1, 3)
        # The inside of the hair behind the neck comes first, so that gaps in the outside show it.
        for inner in (True, False):
            faces = self.faces[:, ::-1] if inner else self.faces
            fragments = rasterize(projected, faces, depth.copy() if inner else depth, (height, width))
            if len(fragments.pixel):
                attributes = fragments.interpolate(faces, values)
                texels = self._texels(attributes[:, 0], attributes[:, 1])
                color = tone_map(self._radiance(attributes, texels, inner))
                behind = flat[fragments.pixel]
                flat[fragments.pixel] = behind + (color - behind) * texels[:, 2:3]

    def _texels(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        return sample_points(self.hair.texels, columns * self.hair.per_cell, rows * self.hair.per_cell)

    def _radiance(self, attributes: FloatArray, texels: FloatArray, inner: bool) -> FloatArray:
        normals, tangents = normalize_vectors(attributes[:, 2:5]), normalize_vectors(attributes[:, 5:8])
        normals = -normals if inner else normals
        tangents = normalize_vectors(tangents + normals * texels[:, 1:2] * 1.6)
        key = self.lights.key
        wrapped = np.maximum((normals @ key + 0.35) / 1.35, 0)
        across = np.sqrt(np.maximum(1 - (tangents @ key) ** 2, 0))
        light = 0.75 * wrapped * (0.35 + 0.65 * across) + 0.24 + 0.12 * normals[:, 1]
        light += 0.22 * np.maximum(normals @ self.lights.fill, 0)
        light = light * texels[:, 0] * (0.16 if inner else 1.0)
        # Hair behind the face is in its shadow.
        light = light * (0.55 + 0.45 * smoothstep(-0.7, 0.25, attributes[:, 9]))
        half = normalize_vectors(key + VIEW_DIRECTION)
        along = tangents @ half
        fiber = np.sqrt(np.maximum(1 - along**2, 0))
        gleam = wrapped * (not inner) * (0.085 * fiber**60 + 0.10 * fiber**14 * np.sqrt(self.albedo.mean()))
        rim = 0.30 * np.maximum(1 - normals[:, 2], 0) ** 2 * np.maximum(normals @ self.lights.rim, 0)
        tint = 0.5 * self.albedo / max(float(self.albedo.max()), 1e-3) + 0.5
        bright = light[:, None] * self.albedo
        return bright + ((gleam * (1 - 0.4 * self.curl))[:, None] * tint) + rim[:, None] * (0.3 + self.albedo)

"""Texture of head, neck and clothes: the painted face wrapped around the mesh."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import sample_bilinear, sample_points
from fantasytalking.portrait_world.graphics.mesh import smoothstep
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.face_paint import paint_face, srgb_to_linear
from fantasytalking.portrait_world.people.garment import paint_clothing
from fantasytalking.portrait_world.people.hair import hair_shadow, scalp_coverage
from fantasytalking.portrait_world.people.head_mesh import HeadMesh
from fantasytalking.portrait_world.people.identity import Identity, mix_colors


@dataclass(frozen=True)
class SkinTexture:
    """Texels (H, W, 6): linear red, green, blue, gloss, ambient visibility, and 1 on skin or 0 on cloth.

    `per_cell` texels per cell of the mesh; the three patches of a head are below each other.
    """

    texels: FloatArray
    per_cell: int

    def sample(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        """Returns values (N, 6) at mesh columns and mesh rows (N,)."""
        places = columns * self.per_cell, rows * self.per_cell
        return np.concatenate([sample_points(half, *places) for half in self._halves], 1)

    @cached_property
    def _halves(self) -> list[FloatArray]:
        """The first and the last three values of all texels, as few as OpenCV samples at once."""
        return [np.ascontiguousarray(self.texels[..., part]) for part in (slice(3), slice(3, 6))]


def texture_rows(head: HeadMesh) -> FloatArray:
    """Returns the texture's mesh row of every vertex (V,), counted through the three patches."""
    rows = [np.repeat(np.arange(sheet.rows), sheet.columns) for sheet in head.grids]
    starts = np.cumsum([0, *(sheet.rows for sheet in head.grids[:-1])])
    return np.concatenate([row + start for row, start in zip(rows, starts, strict=True)]).astype(np.float32)


def make_skin_texture(identity: Identity, head: HeadMesh, density: float, per_cell: int) -> SkinTexture:
    """Paints the texture of a head: `density` pixels per unit for the face, `per_cell` texels per mesh cell."""
    columns = head.grids[0].columns
    places = np.concatenate([head.points, head.ring[:, None]], 1).reshape(-1, columns, 4)
    angle = head.angle.reshape(-1, columns)
    height, width = (places.shape[0] - 1) * per_cell + 1, (columns - 1) * per_cell + 1
    grid_x, grid_y = np.meshgrid(
        np.arange(width, dtype=np.float32) / per_cell, np.arange(height, dtype=np.float32) / per_cell
    )
    where = sample_bilinear(places, grid_x, grid_y)
    angles = sample_bilinear(angle, grid_x, grid_y)
    x, y, ring = where[..., 0], where[..., 1], where[..., 3]

    canvas, layers = paint_face(identity, head.features, density)
    texels = canvas.sample(layers[..., :3], x, y)
    rest = canvas.sample(layers[..., 3:], x, y)
    texels = np.dstack([texels, rest, np.ones_like(x)])
    # Round the side, and down the neck, the plain skin takes over from the frontal drawing.
    plain = np.maximum(smoothstep(1.05, 1.3, np.abs(angles)), smoothstep(11.0, 11.6, ring))
    flat = np.array([*srgb_to_linear(identity.skin), 0.28, 1, 1], np.float32)
    texels += (flat - texels) * plain[..., None]
    texels[..., 4] *= 1 - 0.50 * smoothstep(10.6, 11.6, ring) * smoothstep(14.6, 12.8, ring)
    texels[..., 4] *= hair_shadow(identity, ring, angles)
    scalp = scalp_coverage(identity, ring, angles)
    under_hair = mix_colors(identity.hair, identity.skin, 0.25 if identity.hair_style == "buzz" else 0.05)
    texels[..., :3] += (srgb_to_linear(under_hair) * 0.8 - texels[..., :3]) * scalp[..., None]
    texels[..., 3] *= 1 - 0.8 * scalp
    paint_clothing(identity, texels, ring, angles, x, y)
    return SkinTexture(texels.astype(np.float32), per_cell)

"""The texture of head, neck and clothes: the flat drawing of the face wrapped round the mesh."""

from dataclasses import dataclass

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import resampled, samples_at
from fantasytalking.portrait_world.graphics.mesh import smooth_step
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.people.face_paint import linear, paint_face
from fantasytalking.portrait_world.people.garment import dress
from fantasytalking.portrait_world.people.hair import hair_shadow, scalp_cover
from fantasytalking.portrait_world.people.head_mesh import Head
from fantasytalking.portrait_world.people.identity import Identity, mixed


@dataclass(frozen=True)
class Texture:
    """Texels (H, W, 6): linear red, green, blue, gloss, light that reaches it, and 1 on skin or 0 on cloth.

    `per_cell` texels per cell of the mesh; the three sheets of a head lie below each other.
    """

    texels: FloatArray
    per_cell: int

    def sample(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        """Values (N, 6) at mesh columns and mesh rows (N,)."""
        places = columns * self.per_cell, rows * self.per_cell
        return np.concatenate([samples_at(self.texels[..., part], *places) for part in (slice(3), slice(3, 6))], 1)


def texture_rows(head: Head) -> FloatArray:
    """The texture's mesh row of every vertex (V,), counted through the three sheets."""
    rows = [np.repeat(np.arange(sheet.rows), sheet.columns) for sheet in head.sheets]
    starts = np.cumsum([0, *(sheet.rows for sheet in head.sheets[:-1])])
    return np.concatenate([row + start for row, start in zip(rows, starts, strict=True)]).astype(np.float32)


def make_texture(identity: Identity, head: Head, density: float, per_cell: int) -> Texture:
    """Paints a person's head: `density` pixels per unit for the face, `per_cell` texels per mesh cell."""
    columns = head.sheets[0].columns
    places = np.concatenate([head.points, head.ring[:, None]], 1).reshape(-1, columns, 4)
    angle = head.angle.reshape(-1, columns)
    height, width = (places.shape[0] - 1) * per_cell + 1, (columns - 1) * per_cell + 1
    grid_x, grid_y = np.meshgrid(
        np.arange(width, dtype=np.float32) / per_cell, np.arange(height, dtype=np.float32) / per_cell
    )
    where = resampled(places, grid_x, grid_y)
    angles = resampled(angle, grid_x, grid_y)
    x, y, ring = where[..., 0], where[..., 1], where[..., 3]

    canvas, layers = paint_face(identity, head.features, density)
    texels = canvas.sample(layers[..., :3], x, y)
    rest = canvas.sample(layers[..., 3:], x, y)
    texels = np.dstack([texels, rest, np.ones_like(x)])
    # Round the side, and down the neck, the plain skin takes over from the frontal drawing.
    plain = np.maximum(smooth_step(1.05, 1.3, np.abs(angles)), smooth_step(11.0, 11.6, ring))
    flat = np.array([*linear(identity.skin), 0.28, 1, 1], np.float32)
    texels += (flat - texels) * plain[..., None]
    texels[..., 4] *= 1 - 0.50 * smooth_step(10.6, 11.6, ring) * smooth_step(14.6, 12.8, ring)
    texels[..., 4] *= hair_shadow(identity, ring, angles)
    scalp = scalp_cover(identity, ring, angles)
    under_hair = mixed(identity.hair, identity.skin, 0.25 if identity.hair_style == "buzz" else 0.05)
    texels[..., :3] += (linear(under_hair) * 0.8 - texels[..., :3]) * scalp[..., None]
    texels[..., 3] *= 1 - 0.8 * scalp
    dress(identity, texels, ring, angles, x, y)
    return Texture(texels.astype(np.float32), per_cell)

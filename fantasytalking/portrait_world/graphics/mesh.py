"""Triangle meshes from grids of vertices: triangles and smooth normals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.rasterizer import FloatArray, IntArray


@dataclass(frozen=True)
class Grid:
    """Grid of `rows` x `columns` vertices that starts at vertex `start` of an array of vertices.

    Seen from outside, columns run to the right and rows run down.
    """

    start: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def faces(self) -> IntArray:
        """Returns two triangles per cell (F, 3), front side counterclockwise in an image whose rows go downward."""
        index = self.start + np.arange(self.size, dtype=np.int32).reshape(self.rows, self.columns)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
        return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])

    def view(self, values: NDArray[np.float32]) -> FloatArray:
        """Returns this grid's part of an array over all vertices as (rows, columns, K)."""
        return values[self.start : self.start + self.size].reshape(self.rows, self.columns, -1)

    def normals(self, points: FloatArray, wraps: bool = False) -> FloatArray:
        """Returns outward unit normals (rows, columns, 3); `wraps` joins the last column to the first."""
        sheet = self.view(points)
        if wraps:
            sheet = np.concatenate([sheet[:, -2:-1], sheet, sheet[:, 1:2]], 1)
        across, down = central_difference(sheet, 1), central_difference(sheet, 0)
        if wraps:
            across, down = across[:, 1:-1], down[:, 1:-1]
        return normalize_vectors(_cross(down, across))


def central_difference(sheet: FloatArray, axis: int) -> FloatArray:
    """Returns central differences along axis 0 or 1, one-sided at the ends."""
    result = np.empty_like(sheet)
    along, values = (result, sheet) if axis == 0 else (result.swapaxes(0, 1), sheet.swapaxes(0, 1))
    np.subtract(values[2:], values[:-2], out=along[1:-1])
    np.subtract(values[1], values[0], out=along[0])
    np.subtract(values[-1], values[-2], out=along[-1])
    return result


def _cross(first: FloatArray, second: FloatArray) -> FloatArray:
    """Returns cross products of vectors (..., 3); for the small grids here np.cross mostly moves axes."""
    result = np.empty_like(first)
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        result[..., k] = first[..., i] * second[..., j] - first[..., j] * second[..., i]
    return result


def normalize_vectors(vectors: FloatArray) -> FloatArray:
    """Normalizes vectors (..., 3) to length one."""
    x, y, z = vectors[..., 0:1], vectors[..., 1:2], vectors[..., 2:3]
    return vectors / np.maximum(np.sqrt(x * x + y * y + z * z), 1e-9)


def gaussian_bump(x: FloatArray, y: FloatArray, center: tuple[float, float], scale: tuple[float, float]) -> FloatArray:
    """Returns a Gaussian bump of height one."""
    return np.exp(-(((x - center[0]) / scale[0]) ** 2) - ((y - center[1]) / scale[1]) ** 2)


def smoothstep(low: float, high: float, value: FloatArray) -> FloatArray:
    """Returns 0 below `low`, 1 above `high` and a smooth transition between; `low` > `high` gives a falling step."""
    ratio = np.clip((value - low) / (high - low), 0, 1)
    return ratio * ratio * (3 - 2 * ratio)

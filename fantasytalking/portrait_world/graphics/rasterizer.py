"""Z-buffer rasterizer in numpy that processes all triangles of a frame at once."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]  # float32 wherever there is one value per pixel
IntArray = NDArray[np.int32]

# Tolerance on barycentric weights, so that there are no gaps between neighboring triangles.
EDGE_TOLERANCE = 1e-4


class Fragments(NamedTuple):
    """Visible samples: `pixel` (N,) flat index, `face` (N,) triangle, `weights` (N, 3) barycentric, `depth` (N,)."""

    pixel: NDArray[np.int64]
    face: NDArray[np.int64]
    weights: FloatArray
    depth: FloatArray

    def select(self, mask: NDArray[np.bool_]) -> "Fragments":
        return Fragments(self.pixel[mask], self.face[mask], self.weights[mask], self.depth[mask])

    def interpolate(self, faces: IntArray, values: FloatArray) -> FloatArray:
        """Interpolates values per vertex (V, K) to values per sample (N, K)."""
        corners = faces[self.face]
        result = values[corners[:, 0]] * self.weights[:, :1]
        result += values[corners[:, 1]] * self.weights[:, 1:2]
        result += values[corners[:, 2]] * self.weights[:, 2:]
        return result


def empty_depth_buffer(height: int, width: int) -> FloatArray:
    """Returns an empty depth buffer (H * W,); larger values are nearer."""
    return np.full(height * width, -np.inf, dtype=np.float32)


def rasterize(points: FloatArray, faces: IntArray, depth: FloatArray, shape: tuple[int, int]) -> Fragments:
    """Returns the samples of triangles at pixel centers that are nearest and nearer than `depth`, which is updated.

    Args:
        points: (V, 3) column, row and nearness in pixels; faces (F, 3) counter-clockwise as seen on the screen
            (rows grow downwards), else dropped.
        depth: (H * W,) from `empty_depth_buffer` or an earlier call.
        shape: height and width in pixels.
    """
    height, width = shape
    x, y, z = np.take(np.ascontiguousarray(points.T), faces.T, axis=1)  # (3, F) each: a row per corner
    area: FloatArray = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    front = np.flatnonzero(area < -1e-9)
    x, y, area = np.take(x, front, axis=1), np.take(y, front, axis=1), area[front]
    left = np.maximum(np.ceil(x.min(0) - 0.5), 0).astype(np.int64)
    right = np.minimum(np.floor(x.max(0) - 0.5), width - 1).astype(np.int64)
    top = np.maximum(np.ceil(y.min(0) - 0.5), 0).astype(np.int64)
    bottom = np.minimum(np.floor(y.max(0) - 0.5), height - 1).astype(np.int64)
    kept = np.flatnonzero((right >= left) & (bottom >= top))
    left, top = left[kept], top[kept]
    columns = right[kept] - left + 1
    counts = columns * (bottom[kept] - top + 1)
    owner = np.repeat(np.arange(len(kept)), counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = columns[owner]
    row_step = step // columns
    column = left[owner] + step - row_step * columns
    row = top[owner] + row_step
    sample_x, sample_y = column.astype(np.float32) + np.float32(0.5), row.astype(np.float32) + np.float32(0.5)

    plane = np.take(_weight_planes(np.take(x, kept, axis=1), np.take(y, kept, axis=1), area[kept]), owner, axis=1)
    first = plane[0] * sample_x + plane[1] * sample_y + plane[2]
    second = plane[3] * sample_x + plane[4] * sample_y + plane[5]
    inside = np.flatnonzero(
        (first >= -EDGE_TOLERANCE) & (second >= -EDGE_TOLERANCE) & (first + second <= 1 + EDGE_TOLERANCE)
    )
    face = front[kept[owner[inside]]]
    first, second = first[inside], second[inside]
    third = 1 - first - second
    nearness = z[0, face] * first + z[1, face] * second + z[2, face] * third
    pixel = row[inside] * width + column[inside]
    np.maximum.at(depth, pixel, nearness)
    visible = np.flatnonzero(nearness >= depth[pixel])
    weights = np.stack([first[visible], second[visible], third[visible]], 1)
    return Fragments(pixel[visible], face[visible], weights, nearness[visible])


def _weight_planes(x: FloatArray, y: FloatArray, area: FloatArray) -> FloatArray:
    """Returns coefficients (6, F) of the first two barycentric weights as planes over (column, row)."""
    x, y, area = x.astype(np.float64), y.astype(np.float64), area.astype(np.float64)
    first = y[1] - y[2], x[2] - x[1], x[1] * y[2] - x[2] * y[1]
    second = y[2] - y[0], x[0] - x[2], x[2] * y[0] - x[0] * y[2]
    return (np.stack([*first, *second]) / area).astype(np.float32)

"""Two-dimensional canvas of the front of a face in head coordinates, the source of skin textures."""

import numpy as np

from fantasytalking.portrait_world.graphics.image_ops import draw_lines, gaussian_blur, resize_cubic, sample_bilinear
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray

CANVAS_LEFT, CANVAS_RIGHT, CANVAS_TOP, CANVAS_BOTTOM = -0.95, 0.95, 1.20, -1.30


class FaceCanvas:
    """Layers of strokes and shapes over x in [LEFT, RIGHT] and y in [BOTTOM, TOP], `density` pixels per unit."""

    def __init__(self, density: float) -> None:
        self.density = density
        self.width = round((CANVAS_RIGHT - CANVAS_LEFT) * density)
        self.height = round((CANVAS_TOP - CANVAS_BOTTOM) * density)
        columns = (np.arange(self.width, dtype=np.float32) + 0.5) / density + CANVAS_LEFT
        rows = CANVAS_TOP - (np.arange(self.height, dtype=np.float32) + 0.5) / density
        self.x, self.y = np.meshgrid(columns, rows)

    def empty_layer(self) -> FloatArray:
        """Returns an empty layer (H, W)."""
        return np.zeros((self.height, self.width), np.float32)

    def draw_strokes(self, lines: list[FloatArray], width: float, softness: float = 0.0) -> FloatArray:
        """Returns the coverage (H, W) in [0, 1] of polylines (N, 2) in head coordinates; lengths are in units."""
        layer = np.zeros((self.height, self.width), np.uint8)
        points = [np.stack(self._to_pixels(line[:, 0], line[:, 1]), -1) for line in lines]
        draw_lines(layer, points, max(1, round(width * self.density)))
        # Strokes below one pixel are drawn fainter, not thinner.
        faint = min(1.0, width * self.density)
        return self.blur(layer.astype(np.float32) * (faint / 255), softness)

    def blur(self, layer: FloatArray, softness: float) -> FloatArray:
        """Blurs a layer with a Gaussian of a standard deviation in units."""
        return gaussian_blur(layer, softness * self.density)

    def sample(self, layer: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Returns the layer's values at head coordinates; outside the canvas those of the nearest border."""
        columns, rows = self._to_pixels(x, y)
        return sample_bilinear(layer, columns - 0.5, rows - 0.5)

    def smooth_noise(self, random: np.random.Generator, scale: float) -> FloatArray:
        """Returns smooth noise (H, W) of unit deviation and a scale of about `scale` units, equal at every density."""
        rows, columns = int((CANVAS_TOP - CANVAS_BOTTOM) / scale) + 3, int((CANVAS_RIGHT - CANVAS_LEFT) / scale) + 3
        coarse = random.standard_normal((rows, columns)).astype(np.float32)
        return resize_cubic(coarse, self.height, self.width)

    def _to_pixels(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (x - CANVAS_LEFT) * self.density, (CANVAS_TOP - y) * self.density

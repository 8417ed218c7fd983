"""A flat drawing of the front of a face in head coordinates, from which skin textures are taken."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.rasteriser import FloatArray

LEFT, RIGHT, TOP, BOTTOM = -0.95, 0.95, 1.20, -1.30
SUBPIXEL_BITS = 4


class FaceCanvas:
    """Layers of strokes and shapes over x in [LEFT, RIGHT] and y in [BOTTOM, TOP], `density` pixels per unit."""

    def __init__(self, density: float) -> None:
        self.density = density
        self.width = round((RIGHT - LEFT) * density)
        self.height = round((TOP - BOTTOM) * density)
        columns = (np.arange(self.width, dtype=np.float32) + 0.5) / density + LEFT
        rows = TOP - (np.arange(self.height, dtype=np.float32) + 0.5) / density
        self.x, self.y = np.meshgrid(columns, rows)

    def blank(self) -> FloatArray:
        """An empty layer (H, W)."""
        return np.zeros((self.height, self.width), np.float32)

    def strokes(self, lines: list[NDArray[np.float64]], width: float, softness: float = 0.0) -> FloatArray:
        """Coverage (H, W) in [0, 1] of polylines, each (N, 2) in head coordinates; `width` and `softness` in units."""
        layer = np.zeros((self.height, self.width), np.uint8)
        points = [self._fixed_point(line) for line in lines]
        thickness = max(1, round(width * self.density))
        cv2.polylines(layer, points, False, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        # Below one pixel a stroke is drawn fainter, not thinner.
        faint = min(1.0, width * self.density)
        return self.blurred(layer.astype(np.float32) * (faint / 255), softness)

    def blurred(self, layer: FloatArray, softness: float) -> FloatArray:
        """Gaussian blur with a standard deviation in units."""
        deviation = softness * self.density
        return cv2.GaussianBlur(layer, (0, 0), deviation) if deviation > 0.3 else layer

    def sample(self, layer: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """The layer's values at head coordinates; outside the drawing the nearest border counts."""
        columns = ((x - LEFT) * self.density - 0.5).astype(np.float32)
        rows = ((TOP - y) * self.density - 0.5).astype(np.float32)
        return cv2.remap(layer, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def noise(self, random: np.random.Generator, scale: float) -> FloatArray:
        """Smooth noise (H, W) of unit spread with features of about `scale` units; the same at every density."""
        rows, columns = int((TOP - BOTTOM) / scale) + 3, int((RIGHT - LEFT) / scale) + 3
        coarse = random.standard_normal((rows, columns)).astype(np.float32)
        return cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)

    def _fixed_point(self, line: NDArray[np.float64]) -> NDArray[np.int32]:
        columns = (line[:, 0] - LEFT) * self.density - 0.5
        rows = (TOP - line[:, 1]) * self.density - 0.5
        return np.round(np.stack([columns, rows], -1) * 2**SUBPIXEL_BITS).astype(np.int32)[:, None]

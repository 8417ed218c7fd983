"""Typed wrappers of OpenCV's image operations: sampling, blurring, antialiased lines and polygons."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.rasterizer import FloatArray

SUBPIXEL_BITS = 4
SAMPLES_PER_ROW = 4096


def sample_bilinear(image: FloatArray, columns: FloatArray, rows: FloatArray) -> FloatArray:
    """Returns bilinear samples of an image (H, W[, C]) at pixel coordinates (h, w) each; the border is replicated."""
    maps = np.asarray(columns, np.float32), np.asarray(rows, np.float32)
    pixels = np.ascontiguousarray(image, np.float32)
    return np.asarray(cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def sample_points(image: FloatArray, columns: FloatArray, rows: FloatArray) -> FloatArray:
    """Returns bilinear samples (N, C) of an image (H, W, C), C up to 4, at pixel coordinates (N,)."""
    count = len(columns)
    padded = -(-count // SAMPLES_PER_ROW) * SAMPLES_PER_ROW  # cv2.remap takes at most 32767 samples in a row
    maps = np.zeros((2, padded), np.float32)
    maps[0, :count], maps[1, :count] = columns, rows
    table = maps.reshape(2, -1, SAMPLES_PER_ROW)
    return sample_bilinear(image, table[0], table[1]).reshape(padded, -1)[:count]


def resize_cubic(image: FloatArray, height: int, width: int) -> FloatArray:
    """Resizes an image to (h, w), smoothly."""
    return np.asarray(cv2.resize(np.asarray(image, np.float32), (width, height), interpolation=cv2.INTER_CUBIC))


def gaussian_blur(image: FloatArray, sigma: float) -> FloatArray:
    """Blurs with a Gaussian of a standard deviation in pixels; below 0.3 pixels the image is unchanged."""
    pixels = np.asarray(image, np.float32)
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.float32) if sigma > 0.3 else pixels


def draw_lines(layer: NDArray[np.uint8], lines: list[FloatArray], thickness: int, closed: bool = False) -> None:
    """Draws smooth polylines, each (N, 2) of column and row in pixels, in white on a layer (H, W), in place."""
    white = (255.0,)
    cv2.polylines(layer, [_fixed_point(line) for line in lines], closed, white, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def fill_polygon(layer: NDArray[np.uint8], outline: FloatArray) -> None:
    """Fills a polygon (N, 2) of columns and rows in pixels in white on a layer (H, W), in place."""
    cv2.fillPoly(layer, [_fixed_point(outline)], (255.0,), cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed_point(line: FloatArray) -> NDArray[np.int32]:
    return np.round((line[:, :2] - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)[:, None]

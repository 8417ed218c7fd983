"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004). Meaningful for self-reenactment only."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.metric import FrameMetric, MetricValue, register_metric

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@register_metric(rank=180)
class SSIM(FrameMetric):
    """Mean over RGB, over all positions where the window lies inside the image, over frames and clips."""

    name = "ssim"
    values = (MetricValue("ssim", "", "higher", "Structural similarity, Gaussian window of 11 pixels, over RGB."),)
    min_frame_side = SSIM_WINDOW

    def frame_score(self, frame: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
        """Returns the structural similarity, at most 1."""
        return structural_similarity(frame, reference)


def structural_similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Returns the SSIM of two (H, W, 3) uint8 images, at most 1 (equation 13 of the paper, with its constants)."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    edge = SSIM_WINDOW // 2
    return np.asarray(
        cv2.GaussianBlur(image, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA)[edge:-edge, edge:-edge], np.float64
    )

"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004). Meaningful for self-reenactment alone."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SSIM(Metric):
    """Mean over RGB, over all places where the window lies inside the picture, over frames and clips."""

    name = "ssim"
    values = (MetricValue("ssim", "", "higher", "Structural similarity, Gaussian window of 11 pixels, over RGB."),)
    paired = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The mean over frames; NaN for pictures smaller than the window."""
        assert reference is not None
        if min(video.frames.shape[1:3]) < SSIM_WINDOW:
            return {"ssim": np.array(np.nan)}
        pairs = zip(video.frames, reference.frames, strict=True)
        return {"ssim": np.array(np.mean([structural_similarity(one, other) for one, other in pairs]))}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("ssim",))


def structural_similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """SSIM of two (H, W, 3) uint8 pictures, at most 1 (equation 13 of the paper, with its constants)."""
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

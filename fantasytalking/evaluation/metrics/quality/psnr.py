"""Peak signal-to-noise ratio of pixels against the reference. Meaningful for self-reenactment only."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.metric import FrameMetric, MetricValue, register_metric

MAX_PSNR_DB = 100.0
"""Score of equal frames in decibels."""


@register_metric(rank=170)
class PSNR(FrameMetric):
    """10 log10(255^2 / mean squared error) of each frame, averaged over frames and clips."""

    name = "psnr"
    values = (
        MetricValue("psnr", "dB", "higher", "Peak signal-to-noise ratio per frame over RGB; 100 for equal frames."),
    )

    def frame_score(self, frame: NDArray[np.uint8], reference: NDArray[np.uint8]) -> np.floating:
        """Returns decibels, at most `MAX_PSNR_DB`, computed in float32."""
        error = np.square(frame.astype(np.float32) - reference).mean()
        peak_to_error = np.float32(255**2) / np.maximum(error, np.float32(1e-12))
        decibels: np.floating = np.minimum(np.float32(10) * np.log10(peak_to_error), np.float32(MAX_PSNR_DB))
        return decibels

"""Flicker: brightness that alternates from frame to frame."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric

BLOCKS_PER_SIDE = 32
"""Number of blocks along the shorter side of the image."""


@register_metric(rank=290)
class Flicker(MeanMetric):
    """Median over blocks of the mean of |x(t-1) - 2 x(t) + x(t+1)| / 4, x being the brightness of a block.

    The median makes a person who moves in front of a still background count little. Brightness that alternates by +a
    and -a scores a; constant brightness and steady change score 0.
    """

    name = "flicker"
    values = (
        MetricValue("flicker", "levels", "lower", "Alternation of brightness from frame to frame, of 255 levels."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the median over blocks; NaN for fewer than three frames."""
        if len(video.frames) < 3:
            return self.not_measurable()
        change = np.abs(np.diff(block_brightness(video.frames), n=2, axis=0)).mean(axis=0) / 4
        return {"flicker": np.array(np.median(change))}


def block_brightness(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the (T, h, w) mean luma of blocks of (T, H, W, 3) RGB frames; min(h, w) is at most 32."""
    height, width = frames.shape[1:3]
    scale = min(1.0, BLOCKS_PER_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    luma = (frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for frame in frames)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in luma]).astype(np.float64)

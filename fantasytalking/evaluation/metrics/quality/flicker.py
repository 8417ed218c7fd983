"""Flicker: brightness that goes up and down from frame to frame."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

BLOCKS_PER_SIDE = 32
"""Cells along the shorter side of the picture."""


class Flicker(Metric):
    """The mean of |x(t-1) - 2 x(t) + x(t+1)| / 4 of each cell's brightness x, and of all cells the median, so that a
    person who moves before a calm background hardly counts.

    A brightness that alternates by +a and -a gives a; steady light and steady change give 0.
    """

    name = "flicker"
    values = (
        MetricValue("flicker", "levels", "lower", "Alternation of brightness from frame to frame, of 255 levels."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The median over cells; NaN for fewer than three frames."""
        if len(video.frames) < 3:
            return {"flicker": np.array(np.nan)}
        change = np.abs(np.diff(block_brightness(video.frames), n=2, axis=0)).mean(axis=0) / 4
        return {"flicker": np.array(np.median(change))}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("flicker",))


def block_brightness(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T, H, W, 3) RGB to (T, h, w) mean luma of cells, min(h, w) = 32 at most."""
    height, width = frames.shape[1:3]
    scale = min(1.0, BLOCKS_PER_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    luma = (frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) for frame in frames)
    return np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in luma]).astype(np.float64)

"""Base of the metrics of optical flow inside and outside the person's silhouette."""

from abc import abstractmethod

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement

FLOW_SHORT_SIDE = 256
FLOW_FPS = 25.0
MIN_AREA_FRACTION = 0.005
"""Fraction of the image; a smaller person or background is not measured."""


class FlowMetric(MeanMetric):
    """Mean length of the flow inside and outside the silhouette, averaged over all frames and pixels.

    `values` are the length for the person and for the background, in pixels of an image whose shorter side is 256, per
    1/25 s at any frame rate of the clip. The mask is that of the earlier frame.
    """

    paired = False

    @abstractmethod
    def flow_magnitudes(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (T - 1, h, w) lengths of the flow from each of (T, H, W, 3) RGB frames to the next.

        Lengths are pixels at min(h, w) = 256.
        """

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns means over pairs of frames; NaN with fewer than two frames, or without a person or background."""
        if len(video.frames) < 2:
            return self.not_measurable()
        lengths = self.flow_magnitudes(video.frames) * (video.fps / FLOW_FPS)
        person = np.stack([resize_for_flow(mask) for mask in video.subject_masks[:-1]]) > 0.5
        return {
            value.name: np.array(float(lengths[region].mean() if region.mean() >= MIN_AREA_FRACTION else np.nan))
            for value, region in zip(self.values, (person, ~person), strict=True)
        }


def resize_for_flow(image: NDArray) -> NDArray:
    """Resizes a (H, W) or (H, W, 3) image to a shorter side of 256."""
    scale = FLOW_SHORT_SIDE / min(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)

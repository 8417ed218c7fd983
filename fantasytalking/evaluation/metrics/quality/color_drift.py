"""Drift of the mean color over time."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.time_series import drift_per_second, mean_per_second
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricCurve, MetricValue, register_metric

COLOR_THUMBNAIL_SIDE = 64


@register_metric(rank=310)
class ColorDrift(MeanMetric):
    """Growth of the distance between the mean color of a frame and that of the clip's first second.

    The distance is in CIE Lab (delta E 1976; about 2 is just noticeable). Motion changes the mean color a little too:
    compare with the score of the reference videos.
    """

    name = "colour"
    values = (MetricValue("colour_drift", "dE/s", "reference", "Growth of the color distance from the first second."),)
    paired = False
    curves = (MetricCurve("colour_curve", "dE", "Distance of the mean color from that of the first second."),)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the slope and the distance over time."""
        colors = mean_lab_colors(video.frames)
        distance = np.linalg.norm(colors - colors[video.times < 1].mean(axis=0), axis=1)
        return {
            "colour_drift": np.array(drift_per_second(distance, video.times)),
            "colour_curve": mean_per_second(distance, video.times, len(video.frames) / video.fps),
        }


def mean_lab_colors(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the (T, 3) mean colors in CIE Lab of (T, H, W, 3) sRGB frames."""
    size = (COLOR_THUMBNAIL_SIDE, COLOR_THUMBNAIL_SIDE)
    thumbnails = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames)
    lab = (cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for image in thumbnails)
    return np.stack([image.reshape(-1, 3).mean(axis=0) for image in lab]).astype(np.float64)

"""Colour that drifts away with time."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.time_series import drift_per_second, mean_per_second
from fantasytalking.evaluation.metric import Measurement, Metric, MetricCurve, MetricValue, mean_over_clips

COLOR_THUMBNAIL_SIDE = 64


class ColorDrift(Metric):
    """Distance of the frames' mean colour from that of the clip's first second, in CIE Lab (delta E 1976; about 2 is
    just seen), and how fast it grows. Colour changes a little as a person moves: see the ground truth's own."""

    name = "colour"
    values = (
        MetricValue("colour_drift", "dE/s", "reference", "Growth of the colour's distance from the first second's."),
    )
    paired = False
    curves = (MetricCurve("colour_curve", "dE", "Distance of the mean colour from that of the first second."),)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The slope, and the distance over time."""
        colours = mean_lab_colors(video.frames)
        distance = np.linalg.norm(colours - colours[video.times < 1].mean(axis=0), axis=1)
        return {
            "colour_drift": np.array(drift_per_second(distance, video.times)),
            "colour_curve": mean_per_second(distance, video.times, len(video.frames) / video.fps),
        }

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("colour_drift",))


def mean_lab_colors(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T, H, W, 3) sRGB to (T, 3) means in CIE Lab."""
    small = (
        cv2.resize(frame, (COLOR_THUMBNAIL_SIDE, COLOR_THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
        for frame in frames
    )
    lab = (cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in small)
    return np.stack([picture.reshape(-1, 3).mean(axis=0) for picture in lab]).astype(np.float64)

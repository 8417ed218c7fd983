"""Colour that drifts away with time."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.time_series import drift, per_second
from fantasytalking.evaluation.metric import Curve, Metric, Record, Value, mean_over_clips

SIDE = 64


class ColourDrift(Metric):
    """Distance of the frames' mean colour from that of the clip's first second, in CIE Lab (delta E 1976; about 2 is
    just seen), and how fast it grows. Colour changes a little as a person moves: see the ground truth's own."""

    name = "colour"
    values = (Value("colour_drift", "dE/s", "reference", "Growth of the colour's distance from the first second's."),)
    paired = False
    curves = (Curve("colour_curve", "dE", "Distance of the mean colour from that of the first second."),)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The slope, and the distance over time."""
        colours = mean_colours(video.frames)
        distance = np.linalg.norm(colours - colours[video.times < 1].mean(axis=0), axis=1)
        return {
            "colour_drift": np.array(drift(distance, video.times)),
            "colour_curve": per_second(distance, video.times, len(video.frames) / video.fps),
        }

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("colour_drift",))


def mean_colours(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T, H, W, 3) sRGB to (T, 3) means in CIE Lab."""
    small = (cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames)
    lab = (cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in small)
    return np.stack([picture.reshape(-1, 3).mean(axis=0) for picture in lab]).astype(np.float64)

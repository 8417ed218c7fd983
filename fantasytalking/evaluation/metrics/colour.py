"""Colour that is not the portrait's: in the first frame, and ever more with time."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.curves import drift, per_second
from fantasytalking.evaluation.metric import Curve, Metric, Record, Value, mean_over_clips

SIDE = 64
_NAMES = ("first_frame_shift", "colour_drift")


class Colour(Metric):
    """Distances of mean colours in CIE Lab (delta E 1976; about 2 is just seen), against the reference's first frame,
    which is the portrait. Colour changes a little as the person moves: see the ground truth's own."""

    name = "colour"
    values = (
        Value("first_frame_shift", "dE", "lower", "Colour of the first frame against the reference's first frame."),
        Value("colour_drift", "dE/s", "reference", "Growth of the colour's distance from the reference's first frame."),
    )
    paired = True
    curves = (Curve("colour_curve", "dE", "Distance of the mean colour from the reference's first frame."),)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Both, and the distance over time."""
        assert reference is not None
        distance = np.linalg.norm(mean_colours(video.frames) - mean_colours(reference.frames[:1]), axis=1)
        return {
            "first_frame_shift": distance[:1].reshape(()),
            "colour_drift": np.array(drift(distance, video.times)),
            "colour_curve": per_second(distance, video.times, len(video.frames) / video.fps),
        }

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, _NAMES)


def mean_colours(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(T, H, W, 3) sRGB to (T, 3) means in CIE Lab."""
    small = (cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames)
    lab = (cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in small)
    return np.stack([picture.reshape(-1, 3).mean(axis=0) for picture in lab]).astype(np.float64)

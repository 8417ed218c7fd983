"""Blink rate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, register_metric
from fantasytalking.perception.landmark_measures import eye_opening

BLINK_START_RATIO, BLINK_END_RATIO = 0.6, 0.8
"""Fractions of the median eye opening: a blink starts below the first and ends above the second."""
MAX_BLINK_SECONDS = 0.7
"""Longest blink in seconds; eyes closed for longer do not count."""


@register_metric(rank=280)
class BlinkRate(Metric):
    """Blinks per minute, pooled over clips, since most short clips have none. People blink 10 to 30 times."""

    name = "blinks"
    values = (
        MetricValue("blink_rate", "per minute", "reference", "Blinks per minute of visible face, pooled over clips."),
    )
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the number of blinks, and the seconds in which the face is known."""
        opening = eye_opening(video.track.landmarks).mean(axis=1)
        seconds = float(np.isfinite(opening).sum() / video.fps)
        blinks = count_blinks(opening, video.fps) if seconds else np.nan
        rate = 60 * blinks / seconds if seconds else np.nan
        return {"blink_rate": np.array(rate), "blinks": np.array(blinks), "seconds": np.array(seconds)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns all blinks over all minutes."""
        used = [record for record in measurements if float(record["seconds"])]
        seconds = sum(float(record["seconds"]) for record in used)
        blinks = sum(float(record["blinks"]) for record in used)
        return {"blink_rate": 60 * blinks / seconds if seconds else np.nan, "n": float(len(used))}


def count_blinks(opening: NDArray[np.floating], fps: float) -> int:
    """Returns the number of blinks in (T,) eye openings, NaN = not known."""
    known = opening[np.isfinite(opening)]
    median = np.median(known) if len(known) else np.nan
    blinks, start = 0, None
    for frame, value in enumerate(known):
        if start is None and value < BLINK_START_RATIO * median:
            start = frame
        elif start is not None and value > BLINK_END_RATIO * median:
            blinks += (frame - start) / fps <= MAX_BLINK_SECONDS
            start = None
    return blinks

"""How often the person blinks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.perception.landmark_measures import eye_opening

BLINK_START_RATIO, BLINK_END_RATIO = 0.6, 0.8
"""Shares of the median eye opening: a blink begins below the one and ends above the other."""
MAX_BLINK_SECONDS = 0.7
"""Seconds; eyes shut for longer are no blink."""


class BlinkRate(Metric):
    """Blinks a minute, pooled over clips: most short clips have none. People blink 10 to 30 times a minute."""

    name = "blinks"
    values = (
        MetricValue("blink_rate", "a minute", "reference", "Blinks a minute of visible face, pooled over clips."),
    )
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Blinks, and seconds in which the face is known."""
        opening = eye_opening(video.track.landmarks).mean(axis=1)
        seconds = float(np.isfinite(opening).sum() / video.fps)
        blinks = count_blinks(opening, video.fps) if seconds else np.nan
        rate = 60 * blinks / seconds if seconds else np.nan
        return {"blink_rate": np.array(rate), "blinks": np.array(blinks), "seconds": np.array(seconds)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """All blinks over all minutes."""
        used = [record for record in measurements if float(record["seconds"])]
        seconds = sum(float(record["seconds"]) for record in used)
        blinks = sum(float(record["blinks"]) for record in used)
        return {"blink_rate": 60 * blinks / seconds if seconds else np.nan, "n": float(len(used))}


def count_blinks(opening: NDArray[np.floating], fps: float) -> int:
    """Blinks in (T,) eye openings, NaN where not known."""
    known = opening[np.isfinite(opening)]
    usual = np.median(known) if len(known) else np.nan
    blinks, since = 0, None
    for place, value in enumerate(known):
        if since is None and value < BLINK_START_RATIO * usual:
            since = place
        elif since is not None and value > BLINK_END_RATIO * usual:
            blinks += (place - since) / fps <= MAX_BLINK_SECONDS
            since = None
    return blinks

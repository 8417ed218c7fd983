"""How often the person blinks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.perception.landmark_measures import eye_opening

CLOSED, OPEN = 0.6, 0.8
"""Shares of the median eye opening: a blink begins below the one and ends above the other."""
LONGEST = 0.7
"""Seconds; eyes shut for longer are no blink."""


class BlinkRate(Metric):
    """Blinks a minute, pooled over clips: most short clips have none. People blink 10 to 30 times a minute."""

    name = "blinks"
    values = (Value("blink_rate", "a minute", "reference", "Blinks a minute of visible face, pooled over clips."),)
    paired = False
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Blinks, and seconds in which the face is known."""
        opening = eye_opening(video.track.landmarks).mean(axis=1)
        seconds = float(np.isfinite(opening).sum() / video.fps)
        blinks = count_blinks(opening, video.fps) if seconds else np.nan
        rate = 60 * blinks / seconds if seconds else np.nan
        return {"blink_rate": np.array(rate), "blinks": np.array(blinks), "seconds": np.array(seconds)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """All blinks over all minutes."""
        used = [record for record in records if float(record["seconds"])]
        seconds = sum(float(record["seconds"]) for record in used)
        blinks = sum(float(record["blinks"]) for record in used)
        return {"blink_rate": 60 * blinks / seconds if seconds else np.nan, "n": float(len(used))}


def count_blinks(opening: NDArray[np.floating], fps: float) -> int:
    """Blinks in (T,) eye openings, NaN where not known."""
    known = opening[np.isfinite(opening)]
    usual = np.median(known) if len(known) else np.nan
    blinks, since = 0, None
    for place, value in enumerate(known):
        if since is None and value < CLOSED * usual:
            since = place
        elif since is not None and value > OPEN * usual:
            blinks += (place - since) / fps <= LONGEST
            since = None
    return blinks

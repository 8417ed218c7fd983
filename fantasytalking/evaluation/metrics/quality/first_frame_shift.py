"""Whether the first frame has the portrait's colours: strong audio guidance can tint it."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Against, Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.metrics.quality.color_drift import mean_colours


class FirstFrameShift(Metric):
    """Distance in CIE Lab (delta E 1976) of the first frame's mean colour from that of the reference's first frame,
    which is the portrait."""

    name = "first_frame"
    values = (
        Value("first_frame_shift", "dE", "lower", "Colour of the first frame against the reference's first frame."),
    )
    paired = True
    against = Against.PORTRAIT

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The distance."""
        assert reference is not None
        shift = mean_colours(video.frames[:1]) - mean_colours(reference.frames[:1])
        return {"first_frame_shift": np.array(np.linalg.norm(shift))}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("first_frame_shift",))

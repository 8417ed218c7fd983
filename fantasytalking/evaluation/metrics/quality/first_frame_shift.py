"""Whether the first frame has the portrait's colours: strong audio guidance can tint it."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, Target, mean_over_clips
from fantasytalking.evaluation.metrics.quality.color_drift import mean_lab_colors


class FirstFrameShift(Metric):
    """Distance in CIE Lab (delta E 1976) of the first frame's mean colour from that of the reference's first frame,
    which is the portrait."""

    name = "first_frame"
    values = (
        MetricValue(
            "first_frame_shift", "dE", "lower", "Colour of the first frame against the reference's first frame."
        ),
    )
    paired = True
    target = Target.PORTRAIT

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The distance."""
        assert reference is not None
        shift = mean_lab_colors(video.frames[:1]) - mean_lab_colors(reference.frames[:1])
        return {"first_frame_shift": np.array(np.linalg.norm(shift))}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("first_frame_shift",))

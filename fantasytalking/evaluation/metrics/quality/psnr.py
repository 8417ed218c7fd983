"""Peak signal-to-noise ratio: how far pixels are from the reference's. Meaningful for self-reenactment alone."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

MAX_PSNR_DB = 100.0
"""Decibels that equal frames count as."""


class PSNR(Metric):
    """10 log10(255^2 / mean squared error) of each frame, averaged over frames and clips."""

    name = "psnr"
    values = (
        MetricValue("psnr", "dB", "higher", "Peak signal-to-noise ratio of a frame over RGB; equal frames count 100."),
    )
    paired = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The mean over frames."""
        assert reference is not None
        pairs = zip(video.frames, reference.frames, strict=True)
        errors = np.array([np.square(one.astype(np.float32) - other).mean() for one, other in pairs])
        decibels = 10 * np.log10(255**2 / np.maximum(errors, 1e-12))
        return {"psnr": np.minimum(decibels, MAX_PSNR_DB).mean()}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("psnr",))

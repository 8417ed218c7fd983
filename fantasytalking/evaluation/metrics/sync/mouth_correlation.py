"""Correlation of the mouth opening with the true one, which is known for every frame of the portrait world."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, register_metric
from fantasytalking.evaluation.metrics.centered_correlation import (
    MIN_CORRELATION_FRAMES,
    centered_sums,
    pooled_correlation,
)
from fantasytalking.perception.landmark_measures import mouth_opening

MAX_LAG_SECONDS = 0.4
"""Largest shift in seconds of the search for the best correlation."""


@register_metric(rank=40)
class MouthCorrelation(Metric):
    """Correlation of the mouth opening measured by MediaPipe in a video with the true opening of its reference.

    Pearson's correlation over the frames of all clips, each clip centered on its own mean. The reference videos score
    below 1, because the measurement is not perfect. Videos whose face is known in too few frames are excluded.
    """

    name = "mouth_truth"
    values = (
        MetricValue(
            "mouth_truth", "", "higher", "Correlation of the measured mouth opening with the true one, pooled."
        ),
        MetricValue("mouth_lag", "frames", "reference", "Shift of the best correlation; positive: the image is late."),
        MetricValue("mouth_truth_best", "", "higher", "The correlation at that shift."),
    )
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the (L, 3) sums of `centered_sums` at each lag, and the (L,) lags in frames."""
        measured, true = mouth_opening(video.track.landmarks).astype(np.float64), video.true_mouth_opening
        max_lag = round(MAX_LAG_SECONDS * video.fps)
        lags = np.arange(-max_lag, max_lag + 1)
        enough = int((np.isfinite(measured) & np.isfinite(true)).sum()) >= MIN_CORRELATION_FRAMES
        sums = [_lagged_sums(measured, true, int(lag)) if enough else np.full(3, np.nan) for lag in lags]
        return {"sums": np.array(sums), "lags": lags}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns correlations pooled over the clips with enough known frames."""
        known = [record for record in measurements if np.isfinite(record["sums"]).all()]
        scores = pooled_correlation([record["sums"] for record in known])
        if not np.isfinite(scores).all():
            return {value.name: np.nan for value in self.values} | {"n": float(len(known))}
        lags = known[0]["lags"]
        best = int(scores.argmax())
        return {
            "mouth_truth": float(scores[lags == 0][0]),
            "mouth_lag": float(lags[best]),
            "mouth_truth_best": float(scores[best]),
            "n": float(len(known)),
        }


def _lagged_sums(measured: NDArray[np.float64], reference: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """Returns the (3,) `centered_sums` of measured[t + lag] and reference[t]."""
    length = len(reference) - abs(lag)
    one, other = (measured[lag:], reference[:length]) if lag >= 0 else (measured[:length], reference[-lag:])
    return centered_sums(one, other)

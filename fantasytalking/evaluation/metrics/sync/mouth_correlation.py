"""Does the mouth open when it must? On the portrait world the answer is known for every frame."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.metrics.centered_correlation import (
    MIN_CORRELATION_FRAMES,
    centered_sums,
    pooled_correlation,
)
from fantasytalking.perception.landmark_measures import mouth_opening

MAX_LAG_SECONDS = 0.4
"""Seconds by which the measured opening is moved against the true one to find the best agreement."""


class MouthCorrelation(Metric):
    """Correlation of the mouth opening that MediaPipe measures in a video with that of the clip it retells.

    Pearson over the frames of all clips, each clip centred on its own mean. The ground truth's own score is below 1,
    because the measurement is not perfect. A video whose face is known in too few frames does not enter.
    """

    name = "mouth_truth"
    values = (
        MetricValue(
            "mouth_truth", "", "higher", "Correlation of the measured mouth opening with the true one, pooled."
        ),
        MetricValue(
            "mouth_lag", "frames", "reference", "Shift of the best correlation; positive: the picture is late."
        ),
        MetricValue("mouth_truth_best", "", "higher", "The correlation at that shift."),
    )
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """What correlations are made of: (L, 3) sums of products and squares at every lag, and the lags in frames."""
        measured, true = mouth_opening(video.track.landmarks).astype(np.float64), video.true_mouth_opening
        most = round(MAX_LAG_SECONDS * video.fps)
        lags = np.arange(-most, most + 1)
        enough = int((np.isfinite(measured) & np.isfinite(true)).sum()) >= MIN_CORRELATION_FRAMES
        sums = [_lagged_sums(measured, true, int(lag)) if enough else np.full(3, np.nan) for lag in lags]
        return {"sums": np.array(sums), "lags": lags}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Pooled over the clips of which enough is known."""
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
    """Of m = measured[t + lag] and k = true[t]: (3,), see `centered_sums`."""
    length = len(reference) - abs(lag)
    one, other = (measured[lag:], reference[:length]) if lag >= 0 else (measured[:length], reference[-lag:])
    return centered_sums(one, other)

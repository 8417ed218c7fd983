"""Does the mouth open when it must? On the portrait world the answer is known for every frame."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.metrics.centered_correlation import LEAST_FRAMES, centred_sums, pooled_correlation
from fantasytalking.perception.landmark_measures import mouth_opening

MOST_LAG = 0.4
"""Seconds by which the measured opening is moved against the true one to find the best agreement."""


class MouthTruth(Metric):
    """Correlation of the mouth opening that MediaPipe measures in a video with that of the clip it retells.

    Pearson over the frames of all clips, each clip centred on its own mean. The ground truth's own score is below 1,
    because the measurement is not perfect. A video whose face is known in too few frames does not enter.
    """

    name = "mouth_truth"
    values = (
        Value("mouth_truth", "", "higher", "Correlation of the measured mouth opening with the true one, pooled."),
        Value("mouth_lag", "frames", "reference", "Shift of the best correlation; positive: the picture is late."),
        Value("mouth_truth_best", "", "higher", "The correlation at that shift."),
    )
    paired = False
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """What correlations are made of: (L, 3) sums of products and squares at every lag, and the lags in frames."""
        measured, true = mouth_opening(video.track.landmarks).astype(np.float64), video.true_opening
        most = round(MOST_LAG * video.fps)
        lags = np.arange(-most, most + 1)
        enough = int((np.isfinite(measured) & np.isfinite(true)).sum()) >= LEAST_FRAMES
        sums = [_sums(measured, true, int(lag)) if enough else np.full(3, np.nan) for lag in lags]
        return {"sums": np.array(sums), "lags": lags}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Pooled over the clips of which enough is known."""
        known = [record for record in records if np.isfinite(record["sums"]).all()]
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


def _sums(measured: NDArray[np.float64], true: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    """Of m = measured[t + lag] and k = true[t]: (3,), see `centred_sums`."""
    length = len(true) - abs(lag)
    one, other = (measured[lag:], true[:length]) if lag >= 0 else (measured[:length], true[-lag:])
    return centred_sums(one, other)

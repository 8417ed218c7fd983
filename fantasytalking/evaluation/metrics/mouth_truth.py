"""Does the mouth open when it must? On the portrait world the answer is known for every frame."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.perception.facial_measures import mouth_opening

MOST_LAG = 0.4
"""Seconds by which the measured opening is moved against the true one to find the best agreement."""
LEAST_FRAMES = 10


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

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """What correlations are made of: (L, 3) sums of products and squares at every lag, and the lags in frames."""
        measured, true = mouth_opening(video.track.landmarks).astype(np.float64), video.true_opening
        most = round(MOST_LAG * video.fps)
        lags = np.arange(-most, most + 1)
        enough = int((np.isfinite(measured) & np.isfinite(true)).sum()) >= LEAST_FRAMES
        sums = [_sums(measured, true, int(lag)) if enough else (np.nan,) * 3 for lag in lags]
        return {"sums": np.array(sums), "lags": lags}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Pooled over the clips of which enough is known."""
        known = [record for record in records if np.isfinite(record["sums"]).all()]
        total = np.sum([record["sums"] for record in known], axis=0) if known else np.zeros((1, 3))
        strength = np.sqrt(total[:, 1] * total[:, 2])
        if not (strength > 1e-12).all():
            return {value.name: np.nan for value in self.values} | {"n": float(len(known))}
        scores, lags = total[:, 0] / strength, known[0]["lags"]
        best = int(scores.argmax())
        return {
            "mouth_truth": float(scores[lags == 0][0]),
            "mouth_lag": float(lags[best]),
            "mouth_truth_best": float(scores[best]),
            "n": float(len(known)),
        }


def _sums(measured: NDArray[np.float64], true: NDArray[np.float64], lag: int) -> tuple[float, float, float]:
    """Of m = measured[t + lag] and k = true[t], each centred on its mean: sums of m k, m^2 and k^2."""
    length = len(true) - abs(lag)
    one, other = (measured[lag:], true[:length]) if lag >= 0 else (measured[:length], true[-lag:])
    both = np.isfinite(one) & np.isfinite(other)
    if not both.any():
        return 0.0, 0.0, 0.0
    m, k = one[both] - one[both].mean(), other[both] - other[both].mean()
    return float(m @ k), float(m @ m), float(k @ k)

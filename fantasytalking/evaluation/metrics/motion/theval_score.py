"""THEval's scores: how close each measure's mean is to that of the references."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.theval_landmarks import REAL
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.metrics.motion.theval import known_mean, measures


class THEvalScore(Metric):
    """1 - |m - real| / |real|, m and real being means over the set; 1 is best.

    The overall score is the mean of these four. (THEval's own has four more, which need weights: not the same number.)
    """

    name = "theval_score"
    values = (
        *(Value(f"theval_score_{name}", "", "higher", f"Closeness of {name} to the references'.") for name in REAL),
        Value("theval_score", "", "higher", "Mean of the four; NaN when one of them cannot be had."),
    )
    paired = True
    hears = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The four measures of both sides."""
        assert reference is not None
        sides = (("video", measures(video)), ("reference", measures(reference)))
        return {f"{side}_{name}": values[f"theval_{name}"] for side, values in sides for name in REAL}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Scores of the means over the clips in which both sides are known."""
        scores = {name: _score(records, name) for name in REAL}
        overall = float(np.mean(list(scores.values())))
        result = {f"theval_score_{name}": score for name, score in scores.items()}
        return result | {"theval_score": overall, "n": float(len(_both(records, "lip_dynamics")))}


def _both(records: Sequence[Record], name: str) -> list[Record]:
    return [record for record in records if np.isfinite(record[f"video_{name}"] + record[f"reference_{name}"])]


def _score(records: Sequence[Record], name: str) -> float:
    used = _both(records, name)
    if not used:
        return float("nan")
    measured, real = (known_mean(used, f"{side}_{name}")[0] for side in ("video", "reference"))
    return 1 - abs(measured - real) / abs(real) if real else float("nan")

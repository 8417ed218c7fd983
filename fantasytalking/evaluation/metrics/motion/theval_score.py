"""THEval's scores: closeness of each measure's mean to that of the references."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.theval_landmarks import REAL_VIDEO_MEANS
from fantasytalking.evaluation.metric import Measurement, MetricValue, PairedMetric, register_metric
from fantasytalking.evaluation.metrics.motion.theval import finite_mean, theval_measures


@register_metric(rank=240)
class THEvalScore(PairedMetric):
    """1 - |m - real| / |real|, with m and real the means over the set; 1 is best.

    The overall score is the mean of the four scores. THEval's own has four more, which need weights: the numbers are
    not comparable.
    """

    name = "theval_score"
    values = (
        *(
            MetricValue(f"theval_score_{name}", "", "higher", f"Closeness of {name} to the references'.")
            for name in REAL_VIDEO_MEANS
        ),
        MetricValue("theval_score", "", "higher", "Mean of the four; NaN if one of them is not known."),
    )
    uses_audio = True

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the four measures of both sides."""
        sides = (("video", theval_measures(video)), ("reference", theval_measures(reference)))
        return {f"{side}_{name}": values[f"theval_{name}"] for side, values in sides for name in REAL_VIDEO_MEANS}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns scores of the means over the clips in which both sides are known."""
        scores = {name: _score(measurements, name) for name in REAL_VIDEO_MEANS}
        overall = float(np.mean(list(scores.values())))
        result = {f"theval_score_{name}": score for name, score in scores.items()}
        return result | {"theval_score": overall, "n": float(len(_known_on_both_sides(measurements, "lip_dynamics")))}


def _known_on_both_sides(measurements: Sequence[Measurement], name: str) -> list[Measurement]:
    return [record for record in measurements if np.isfinite(record[f"video_{name}"] + record[f"reference_{name}"])]


def _score(measurements: Sequence[Measurement], name: str) -> float:
    used = _known_on_both_sides(measurements, name)
    if not used:
        return float("nan")
    measured, real = (finite_mean(used, f"{side}_{name}")[0] for side in ("video", "reference"))
    return 1 - abs(measured - real) / abs(real) if real else float("nan")

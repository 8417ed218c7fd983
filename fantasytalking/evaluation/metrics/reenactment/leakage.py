"""Leakage of expressions between people: correlation of each person with each driver."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.landmark_expressions import (
    EXPRESSION_CHANNELS,
    LANDMARK_READER_NAME,
    landmark_expressions,
)
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, register_metric
from fantasytalking.evaluation.metrics.centered_correlation import centered_sums_or_nan, pooled_correlation
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import CHANNEL_ORDER

MAX_LEAKAGE_PEOPLE = 3
"""Number of people in the table, from the left."""
_PERSON_DRIVER_PAIRS = [
    (person, driver) for person in range(MAX_LEAKAGE_PEOPLE) for driver in range(MAX_LEAKAGE_PEOPLE)
]


def leakage_values(prefix: str, reader: str) -> tuple[MetricValue, ...]:
    """Returns the values: mean of the diagonal, mean of the rest, and the table, person by person."""
    about_zero = "With the drivers of others, mean over pairs; about 0 without leakage."
    return (
        MetricValue(f"{prefix}_own", "", "higher", f"Correlation by {reader} with one's own driver, mean over people."),
        MetricValue(f"{prefix}_other", "", "reference", about_zero),
        *(
            MetricValue(
                f"{prefix}_{person + 1}_{driver + 1}",
                "",
                "higher" if person == driver else "reference",
                f"Person {person + 1} from the left with driver {driver + 1}.",
            )
            for person, driver in _PERSON_DRIVER_PAIRS
        ),
    )


@register_metric(rank=70)
class ExpressionLeakage(Metric):
    """Correlation of the expression of each person with the truth of each driver, as in `ExpressionCorrelation`.

    A score is the mean over mouth, blink, brows, gaze and head. Independent drivers score about 0 off the diagonal; the
    score of the reference videos shows the effect of chance and the accuracy of the estimator.
    """

    name = "leakage"
    values = leakage_values("leakage", LANDMARK_READER_NAME)
    paired = False
    reenactment_only = True

    def read_expressions(self, video: EvaluationClip) -> GroundTruth:
        """Returns the expression estimated from the single face of a clip."""
        return landmark_expressions(video.track)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns (people, drivers, C, 3) sums of `centered_sums`; NaN for missing people or too few known frames."""
        people = video.people[:MAX_LEAKAGE_PEOPLE]
        sums = np.full((MAX_LEAKAGE_PEOPLE, MAX_LEAKAGE_PEOPLE, len(CHANNEL_ORDER), 3), np.nan)
        if len(people) > 1:
            unknown = np.full(len(video.frames), np.nan)
            for index, read in enumerate([self.read_expressions(person) for person in people]):
                for driver, other in enumerate(people):
                    pairs = [
                        centered_sums_or_nan(read[name], other.ground_truth.get(name, unknown))
                        for name in CHANNEL_ORDER
                    ]
                    sums[index, driver] = pairs
        return {"sums": sums}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns correlations pooled over the clips of several people with enough known frames."""
        known = [record["sums"] for record in measurements if np.isfinite(record["sums"][:2, :2]).all()]
        table = np.array(
            [
                [_score(known, person, driver) for driver in range(MAX_LEAKAGE_PEOPLE)]
                for person in range(MAX_LEAKAGE_PEOPLE)
            ]
        )
        own = np.eye(MAX_LEAKAGE_PEOPLE, dtype=bool)
        scores = [_finite_mean(table[own]), _finite_mean(table[~own]), *table.ravel().tolist()]
        names = [value.name for value in self.values]
        return dict(zip(names, scores, strict=True)) | {"n": float(len(known))}


def _score(known: Sequence[NDArray[np.float64]], person: int, driver: int) -> float:
    """Returns the mean over groups of a person's correlations with a driver, over the clips that have both."""
    sums = [found for record in known if np.isfinite(found := record[person, driver]).all()]
    if not sums:
        return float("nan")
    scores = dict(zip(CHANNEL_ORDER, pooled_correlation(sums), strict=True))
    return _finite_mean(
        np.array([_finite_mean(np.array([scores[name] for name in group])) for group in EXPRESSION_CHANNELS.values()])
    )


def _finite_mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")

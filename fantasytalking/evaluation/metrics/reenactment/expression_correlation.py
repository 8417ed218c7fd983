"""Correlation of the expression with the true one of the driver, which is known in the portrait world."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.landmark_expressions import (
    EXPRESSION_CHANNELS,
    LANDMARK_READER_NAME,
    landmark_expressions,
)
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, register_metric
from fantasytalking.evaluation.metrics.centered_correlation import centered_sums_or_nan, pooled_correlation

CHANNEL_ORDER = tuple(name for names in EXPRESSION_CHANNELS.values() for name in names)


def correlation_values(prefix: str, reader: str) -> tuple[MetricValue, ...]:
    """Returns a value for each group of channels; `reader` names the estimator of the expression."""
    return tuple(
        MetricValue(
            f"{prefix}_{group}", "", "higher", f"Correlation of {group} by {reader} with the driver's truth, pooled."
        )
        for group in EXPRESSION_CHANNELS
    )


@register_metric(rank=50)
class ExpressionCorrelation(Metric):
    """Correlation of the expression estimated from a video with the true expression of its driver.

    Pearson's correlation over the frames of all clips, each clip centered on its own mean; gaze and head are means over
    their directions. The score of the reference videos shows the accuracy of the estimator, which is low for the brows
    of small faces.
    """

    name = "expression_truth"
    values = correlation_values("expression", LANDMARK_READER_NAME)
    paired = False
    reenactment_only = True
    per_person = True

    def read_expressions(self, video: EvaluationClip) -> GroundTruth:
        """Returns the expression estimated from the single face of a clip."""
        return landmark_expressions(video.track)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the (C, 3) sums of `centered_sums`; NaN where too few frames are known."""
        read, true = self.read_expressions(video), video.ground_truth
        unknown = np.full(len(video.frames), np.nan)
        return {"sums": np.stack([centered_sums_or_nan(read[name], true.get(name, unknown)) for name in CHANNEL_ORDER])}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns correlations pooled over the clips with enough known frames."""
        known = [record["sums"] for record in measurements if np.isfinite(record["sums"]).all()]
        scores = dict(
            zip(CHANNEL_ORDER, pooled_correlation(known) if known else [np.nan] * len(CHANNEL_ORDER), strict=True)
        )
        groups = zip(self.values, EXPRESSION_CHANNELS.values(), strict=True)
        result = {value.name: float(np.mean([scores[name] for name in names])) for value, names in groups}
        return result | {"n": float(len(known))}

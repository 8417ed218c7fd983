"""Does the face do what it is driven to do? On the portrait world the answer is known for every frame."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.landmark_expressions import (
    EXPRESSION_CHANNELS,
    LANDMARK_READER_NAME,
    landmark_expressions,
)
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.metrics.centered_correlation import centered_sums_or_nan, pooled_correlation

CHANNEL_ORDER = tuple(name for names in EXPRESSION_CHANNELS.values() for name in names)


def correlation_values(prefix: str, reader: str) -> tuple[MetricValue, ...]:
    """A value for every group of channels."""
    told = "with the driver's truth, pooled."
    return tuple(
        MetricValue(f"{prefix}_{group}", "", "higher", f"Correlation of {group} by {reader} {told}")
        for group in EXPRESSION_CHANNELS
    )


class ExpressionCorrelation(Metric):
    """Correlation of what is read in a video with what whoever drives it truly did.

    Pearson over the frames of all clips, each clip centred on its own mean; gaze and head are means over their
    directions. The real videos' own score tells how well the reader reads: brows of small faces hardly at all.
    """

    name = "expression_truth"
    values = correlation_values("expression", LANDMARK_READER_NAME)
    paired = False
    reenactment_only = True
    per_person = True

    def read_expressions(self, video: EvaluationClip) -> GroundTruth:
        """What is read of the one face in a clip."""
        return landmark_expressions(video.track)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """What correlations are made of, (C, 3) sums of products and squares; NaN where too little is known."""
        read, true = self.read_expressions(video), video.ground_truth
        unknown = np.full(len(video.frames), np.nan)
        return {"sums": np.stack([centered_sums_or_nan(read[name], true.get(name, unknown)) for name in CHANNEL_ORDER])}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Pooled over the clips of which enough is known."""
        known = [record["sums"] for record in measurements if np.isfinite(record["sums"]).all()]
        scores = dict(
            zip(CHANNEL_ORDER, pooled_correlation(known) if known else [np.nan] * len(CHANNEL_ORDER), strict=True)
        )
        groups = zip(self.values, EXPRESSION_CHANNELS.values(), strict=True)
        result = {value.name: float(np.mean([scores[name] for name in names])) for value, names in groups}
        return result | {"n": float(len(known))}

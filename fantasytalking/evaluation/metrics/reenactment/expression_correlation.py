"""Does the face do what it is driven to do? On the portrait world the answer is known for every frame."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.landmark_expressions import CHANNELS, NAME, read_landmarks
from fantasytalking.evaluation.ground_truth import Truth
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.metrics.centered_correlation import known_sums, pooled_correlation

ORDER = tuple(name for names in CHANNELS.values() for name in names)


def truth_values(prefix: str, reader: str) -> tuple[Value, ...]:
    """A value for every group of channels."""
    told = "with the driver's truth, pooled."
    return tuple(
        Value(f"{prefix}_{group}", "", "higher", f"Correlation of {group} by {reader} {told}") for group in CHANNELS
    )


class ExpressionTruth(Metric):
    """Correlation of what is read in a video with what whoever drives it truly did.

    Pearson over the frames of all clips, each clip centred on its own mean; gaze and head are means over their
    directions. The real videos' own score tells how well the reader reads: brows of small faces hardly at all.
    """

    name = "expression_truth"
    values = truth_values("expression", NAME)
    paired = False
    driven = True
    per_person = True

    def read(self, video: Clip) -> Truth:
        """What is read of the one face in a clip."""
        return read_landmarks(video.track)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """What correlations are made of, (C, 3) sums of products and squares; NaN where too little is known."""
        read, true = self.read(video), video.truth
        unknown = np.full(len(video.frames), np.nan)
        return {"sums": np.stack([known_sums(read[name], true.get(name, unknown)) for name in ORDER])}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Pooled over the clips of which enough is known."""
        known = [record["sums"] for record in records if np.isfinite(record["sums"]).all()]
        scores = dict(zip(ORDER, pooled_correlation(known) if known else [np.nan] * len(ORDER), strict=True))
        groups = zip(self.values, CHANNELS.values(), strict=True)
        result = {value.name: float(np.mean([scores[name] for name in names])) for value, names in groups}
        return result | {"n": float(len(known))}

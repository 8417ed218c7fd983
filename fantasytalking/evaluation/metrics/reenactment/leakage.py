"""Does everyone do what their own driver does, and nothing of what the others' do? A table of people by drivers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.landmark_expressions import CHANNELS, NAME, read_landmarks
from fantasytalking.evaluation.ground_truth import Truth
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.metrics.centered_correlation import known_sums, pooled_correlation
from fantasytalking.evaluation.metrics.reenactment.expression_correlation import ORDER

MOST = 3
"""People that the table has, from the left."""
_PLACES = [(person, driver) for person in range(MOST) for driver in range(MOST)]


def leakage_values(prefix: str, reader: str) -> tuple[Value, ...]:
    """Diagonal, the rest, and the whole table, a person after the other."""
    about_zero = "With the drivers of others, mean over pairs; about 0 if none leaks."
    return (
        Value(f"{prefix}_own", "", "higher", f"Correlation by {reader} with one's own driver, mean over people."),
        Value(f"{prefix}_other", "", "reference", about_zero),
        *(
            Value(
                f"{prefix}_{person + 1}_{driver + 1}",
                "",
                "higher" if person == driver else "reference",
                f"Person {person + 1} from the left with driver {driver + 1}.",
            )
            for person, driver in _PLACES
        ),
    )


class Leakage(Metric):
    """Correlations, as in `ExpressionTruth`, of what is read of each person with the truth of each driver: the mean of
    mouth, blink, brows, gaze and head. Drivers who know nothing of each other give about 0 beside the diagonal; the
    real videos' own score tells what chance makes of that, and how well the reader reads.
    """

    name = "leakage"
    values = leakage_values("leakage", NAME)
    paired = False
    driven = True

    def read(self, video: Clip) -> Truth:
        """What is read of the one face in a clip."""
        return read_landmarks(video.track)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """(people, drivers, C, 3) sums of products and squares; NaN for who is not there or too little known."""
        people = video.people[:MOST]
        sums = np.full((MOST, MOST, len(ORDER), 3), np.nan)
        if len(people) > 1:
            unknown = np.full(len(video.frames), np.nan)
            for place, read in enumerate([self.read(person) for person in people]):
                for driver, other in enumerate(people):
                    pairs = [known_sums(read[name], other.truth.get(name, unknown)) for name in ORDER]
                    sums[place, driver] = pairs
        return {"sums": sums}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Pooled over the clips of several people of which enough is known."""
        known = [record["sums"] for record in records if np.isfinite(record["sums"][:2, :2]).all()]
        table = np.array([[_score(known, person, driver) for driver in range(MOST)] for person in range(MOST)])
        own = np.eye(MOST, dtype=bool)
        scores = [_known_mean(table[own]), _known_mean(table[~own]), *table.ravel().tolist()]
        names = [value.name for value in self.values]
        return dict(zip(names, scores, strict=True)) | {"n": float(len(known))}


def _score(known: Sequence[NDArray[np.float64]], person: int, driver: int) -> float:
    """Mean over the groups of a person's correlations with a driver, over the clips that have both."""
    sums = [found for record in known if np.isfinite(found := record[person, driver]).all()]
    if not sums:
        return float("nan")
    scores = dict(zip(ORDER, pooled_correlation(sums), strict=True))
    return _known_mean(
        np.array([_known_mean(np.array([scores[name] for name in group])) for group in CHANNELS.values()])
    )


def _known_mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")

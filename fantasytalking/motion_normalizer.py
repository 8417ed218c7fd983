"""The constants that make of a clip's measured motion the intensities from 0 to 1 (paper section 3.3).

The paper normalises over the training set and leaves open how. The constants travel with the corpus and with every
checkpoint trained on it, so that 0.6 means the same to everyone.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.tensor_io import read_json

MOTION_NORMALIZER_FILE = "motion_normaliser.json"
"""The file, in the folder of a corpus, an adapter or a pipeline."""
MOTION_PERCENTILES = (10, 90)
"""Of a corpus: where 0 and 1 lie."""

# Measures below this (a frozen picture) have no meaningful logarithm.
_MIN_MEASURE = 1e-9


class MotionMeasure(NamedTuple):
    """Motion of a clip before normalisation, in squared interocular distances."""

    expression: float
    body: float


@dataclass(frozen=True)
class MotionNormalizer:
    """Maps measures to [0, 1] by constants fitted on a corpus: keep them with the checkpoint trained on it.

    The logarithm of a measure goes linearly from its 10th percentile (0) to its 90th (1), and is clipped. The
    logarithm, because the measures spread over two powers of ten; percentiles, because one wild clip must not squeeze
    all others, and these, because both intensities are asked for at once: 12 of nano's 1,881 clips lie above the 90th
    percentile of both measures, none above the 95th, and a model asked for 1 and 1 should have seen the like.
    """

    expression_low: float
    expression_high: float
    body_low: float
    body_high: float

    def __post_init__(self) -> None:
        for name, low, high in (
            ("expression", self.expression_low, self.expression_high),
            ("body", self.body_low, self.body_high),
        ):
            if not (0 < low < high < math.inf):
                raise InputError(f"motion constants of {name} are {low} and {high}; they must satisfy 0 < low < high")

    @classmethod
    def fit(cls, measures: Sequence[MotionMeasure]) -> "MotionNormalizer":
        """Fits the constants.

        Raises:
            InputError: no measures, or measures that are not finite.
        """
        block = np.array(measures, np.float64).reshape(-1, 2)
        if not len(block) or not np.isfinite(block).all() or (block < 0).any():
            raise InputError(f"motion constants need finite measures of at least one clip; {len(block)} were given")
        low, high = np.exp(np.percentile(np.log(np.maximum(block, _MIN_MEASURE)), MOTION_PERCENTILES, axis=0))
        # A corpus of equal clips still gives a valid map: a factor of e around its value.
        same = high < low * 1.01
        low, high = np.where(same, low / math.e, low), np.where(same, high * math.e, high)
        return cls(float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def normalize(self, measure: MotionMeasure) -> tuple[float, float]:
        """(expression, body) in [0, 1]."""
        return (
            _log_fraction(measure.expression, self.expression_low, self.expression_high),
            _log_fraction(measure.body, self.body_low, self.body_high),
        )

    def save(self, path: str | Path) -> None:
        """Writes the constants as JSON, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "MotionNormalizer":
        """Reads constants that `save` wrote.

        Raises:
            InputError: the file is missing, not such a JSON, or holds impossible constants.
        """
        values, names = read_json(Path(path)), {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(f"'{path}' does not hold exactly {', '.join(sorted(names))}; prepare the corpus again")
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
            raise InputError(f"'{path}' holds constants that are no numbers; prepare the corpus again")
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except InputError as error:
            raise InputError(f"'{path}': {error}; prepare the corpus again") from error

    @classmethod
    def load_if_present(cls, path: str | Path) -> "MotionNormalizer | None":
        """Those of the folder that holds `path`, or that it is; None where it has none.

        Raises:
            InputError: as of `load`.
        """
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / MOTION_NORMALIZER_FILE
        return cls.load(file) if file.is_file() else None


def _log_fraction(value: float, low: float, high: float) -> float:
    """Where log(value) lies between log(low) and log(high), clipped to [0, 1]."""
    share = (math.log(max(value, _MIN_MEASURE)) - math.log(low)) / (math.log(high) - math.log(low))
    return min(1.0, max(0.0, share))

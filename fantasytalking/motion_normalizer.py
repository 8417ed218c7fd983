"""Constants that map a clip's measured motion to intensities in [0, 1] (paper section 3.3).

The paper normalizes over the training set and leaves the method open. The constants are stored with the corpus and with
every checkpoint trained on it, so that an intensity always means the same motion.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.text_files import read_json

MOTION_NORMALIZER_FILE = "motion_normaliser.json"
"""File name in the folder of a corpus, an adapter or a pipeline."""
MOTION_PERCENTILES = (10, 90)
"""Percentiles of a corpus that map to 0 and 1."""

# Measures below this (a frozen image) have no meaningful logarithm.
_MIN_MEASURE = 1e-9


class MotionMeasure(NamedTuple):
    """Motion of a clip before normalization, in squared interocular distances."""

    expression: float
    body: float


@dataclass(frozen=True)
class MotionNormalizer:
    """Maps measures to [0, 1] with constants fitted on a corpus, stored with the checkpoints trained on it.

    The logarithm of a measure is mapped linearly from its 10th percentile (0) to its 90th (1) and clipped. The
    logarithm, because measures span two powers of ten; percentiles, because one extreme clip must not compress all
    others; these percentiles, because both intensities are requested together: 12 of nano's 1,881 clips lie above the
    90th percentile of both measures and none above the 95th, and the training set must contain clips near (1, 1).
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
                raise InputError(
                    f"the motion constants of {name} are {low} and {high}; they must satisfy 0 < low < high",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=(low, high),
                )

    @classmethod
    def fit(cls, measures: Sequence[MotionMeasure]) -> "MotionNormalizer":
        """Fits the constants to the measures of a corpus.

        Raises:
            InputError: there are no measures, or measures are not finite and non-negative.
        """
        block = np.array(measures, np.float64).reshape(-1, 2)
        if not len(block) or not np.isfinite(block).all() or (block < 0).any():
            raise InputError(
                f"motion constants need finite measures of at least one clip; {len(block)} were given",
                code=ErrorCode.out_of_range,
                field="measures",
                value=len(block),
            )
        low, high = np.exp(np.percentile(np.log(np.maximum(block, _MIN_MEASURE)), MOTION_PERCENTILES, axis=0))
        # For a corpus of equal clips, the constants are a factor of e around their value.
        same = high < low * 1.01
        low, high = np.where(same, low / math.e, low), np.where(same, high * math.e, high)
        return cls(float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def normalize(self, measure: MotionMeasure) -> tuple[float, float]:
        """Returns (expression, body) in [0, 1]."""
        return (
            _log_fraction(measure.expression, self.expression_low, self.expression_high),
            _log_fraction(measure.body, self.body_low, self.body_high),
        )

    def save(self, path: str | Path) -> None:
        """Writes the constants as JSON, atomically."""
        atomic_write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "MotionNormalizer":
        """Reads constants that `save` wrote.

        Raises:
            InputError: the file is missing, is not such JSON, or contains impossible constants.
        """
        values, names = read_json(Path(path)), {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(
                f"'{path}' does not contain exactly {', '.join(sorted(names))}; prepare the corpus again",
                code=ErrorCode.malformed_file,
                field=str(path),
            )
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
            raise InputError(
                f"'{path}' contains constants that are not numbers; prepare the corpus again",
                code=ErrorCode.malformed_file,
                field=str(path),
            )
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except InputError as error:
            raise InputError(
                f"'{path}': {error}; prepare the corpus again",
                code=ErrorCode.malformed_file,
                field=error.field,
                value=error.value,
            ) from error

    @classmethod
    def load_if_present(cls, path: str | Path) -> "MotionNormalizer | None":
        """Reads the constants of the folder `path`, or of the folder that contains it; None if there are none.

        Raises:
            InputError: as `load`.
        """
        path = Path(path)
        file = (path if path.is_dir() else path.parent) / MOTION_NORMALIZER_FILE
        return cls.load(file) if file.is_file() else None


def _log_fraction(value: float, low: float, high: float) -> float:
    """Position of log(value) between log(low) and log(high), clipped to [0, 1]."""
    fraction = (math.log(max(value, _MIN_MEASURE)) - math.log(low)) / (math.log(high) - math.log(low))
    return min(1.0, max(0.0, fraction))

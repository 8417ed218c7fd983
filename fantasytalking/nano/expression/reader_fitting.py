"""Fitting and judging the reader of expressions that evaluation uses."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.nano.expression.expression_samples import ExpressionSamples
from fantasytalking.nano.expression.linear_probe import correlations, fit_linear
from fantasytalking.perception.expression_reader import NAMES, ExpressionReader, reading_values

PENALTY = 3e-3


def fit_reader(samples: ExpressionSamples) -> ExpressionReader:
    """Fits a reader to changes from each person's rest."""
    return ExpressionReader(fit_linear(*_changes(samples), PENALTY))


def measure_reader(reader: ExpressionReader, held_out: ExpressionSamples) -> dict[str, float]:
    """Correlation of every truth with what is read, on people to whom the reader was not fitted."""
    values, truths = _changes(held_out)
    return correlations(reader.map(values), truths, NAMES)


def _changes(samples: ExpressionSamples) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    values, rests = reading_values(samples.landmarks), samples.rests
    return values - values[rests], samples.truths - samples.truths[rests]

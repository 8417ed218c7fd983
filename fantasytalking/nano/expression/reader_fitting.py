"""Fitting and judging the reader of expressions that evaluation uses."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.features.expression_reader import (
    EXPRESSION_PARAMETERS,
    ExpressionReader,
    landmark_features,
)
from fantasytalking.nano.expression.expression_samples import ExpressionSamples
from fantasytalking.nano.expression.linear_probe import column_correlations, fit_ridge

RIDGE_PENALTY = 3e-3


def fit_reader_weights(samples: ExpressionSamples) -> ExpressionReader:
    """Fits a reader to changes from each person's rest."""
    return ExpressionReader(fit_ridge(*_changes_from_rest(samples), RIDGE_PENALTY))


def evaluate_expression_reader(reader: ExpressionReader, held_out: ExpressionSamples) -> dict[str, float]:
    """Correlation of every truth with what is read, on people to whom the reader was not fitted."""
    values, truths = _changes_from_rest(held_out)
    return column_correlations(reader.linear_map(values), truths, EXPRESSION_PARAMETERS)


def _changes_from_rest(samples: ExpressionSamples) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    values, rests = landmark_features(samples.landmarks), samples.rest_indices
    return values - values[rests], samples.targets - samples.targets[rests]

"""Finds the weights of a metric's networks."""

from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.evaluation.weights import MetricWeights, locate_metric_weights


def require_weights(weights: MetricWeights, folder: Path | None) -> Path:
    """Returns the path of a metric's weights in `folder`.

    Raises:
        InputError: they are missing, or have another size or hash than the known file.
    """
    path = locate_metric_weights(weights, folder)
    if path is None:
        raise InputError(
            f"{weights.used_by} needs {weights.describe()} in the folder of weights, '{folder}'; add the file",
            code=ErrorCode.missing_weights,
            field="--weights",
            value=weights.file,
        )
    return path

"""Statistics of measured against requested motion.

Axes: M intensities, N clips.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.report.markdown import format_estimate
from fantasytalking.evaluation.report.results import EvaluationResults
from fantasytalking.evaluation.report.statistics import (
    BOOTSTRAP_SEED,
    CONFIDENCE_LEVEL,
    Estimate,
    distinct_draws,
    percentile_interval,
)

CONTROLLED_VALUES = {
    "motion_expression": "expression, 1e-3",
    "motion_body": "body, 1e-3",
    "sd_dis": "subject flow, pixels",
}
"""Measurements that should rise with the requested intensity, and their titles in the table."""
PRESERVED_VALUES = {"mouth_truth": "mouth against the ground truth", "csim_nano": "identity, cosine"}
"""Measurements that should not change, and their titles in the table."""
NUM_BOOTSTRAP_RESAMPLES = 1000

FloatMatrix = NDArray[np.float64]


def motion_control_table(intensities: Sequence[float], results: Sequence[EvaluationResults]) -> list[str]:
    """Returns a Markdown table of measured motion per requested intensity, with bootstrap intervals over clips.

    Args:
        intensities: M intensities, ascending.
        results: M results on the same clips, one per intensity.
    """
    levels = [f"at {intensity:g}" for intensity in intensities]
    statistics = ["Spearman, all clips pooled", "Spearman, within clips", "highest : lowest"]
    columns = ["", *levels, *(f"{name} [{CONFIDENCE_LEVEL:g} %]" for name in statistics)]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for value, title in (CONTROLLED_VALUES | PRESERVED_VALUES).items():
        rows = [row for result in results if (row := result.find_row(value)) is not None]
        if len(rows) < len(results):
            continue
        cells = [format_estimate(row.score) for row in rows]
        if value in CONTROLLED_VALUES:
            clips = results[0].clips
            measured = np.array([[row.per_clip[clip] for clip in clips] for row in rows])  # (M, N)
            cells += [format_estimate(estimate) for estimate in motion_response(intensities, measured)]
        else:
            cells += ["–"] * len(statistics)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def motion_response(intensities: Sequence[float], measured: FloatMatrix) -> tuple[Estimate, Estimate, Estimate]:
    """Returns Spearman's correlation pooled over clips, the same within clips, and the ratio of the means at the
    highest and the lowest intensity.

    Within clips, differences between people and sentences are removed as a factor, since intensities are logarithms of
    the measured motion.

    Args:
        intensities: M intensities, ascending.
        measured: (M, N) motion, not negative; NaN where it could not be measured.
    """

    def ratio(values: FloatMatrix) -> float:
        return float(np.nanmean(values[-1]) / np.nanmean(values[0]))

    return (
        _bootstrap_over_clips(measured, lambda values: request_correlation(intensities, values)),
        _bootstrap_over_clips(measured, lambda values: request_correlation(intensities, center_per_clip(values))),
        _bootstrap_over_clips(measured, ratio),
    )


def center_per_clip(measured: FloatMatrix) -> FloatMatrix:
    """Returns logarithms (M, N) minus each clip's mean; NaN for clips that were not measured at every intensity."""
    logarithms = np.log(np.maximum(measured, np.finfo(np.float64).tiny))
    return np.asarray(logarithms - logarithms.mean(axis=0, keepdims=True))


def request_correlation(intensities: Sequence[float], measured: FloatMatrix) -> float:
    """Returns Spearman's correlation between requested intensities and measured motion.

    Args:
        intensities: M intensities.
        measured: (M, N) motion; NaN where it could not be measured.
    """
    from scipy.stats import rankdata

    requested = np.repeat(np.asarray(intensities)[:, None], measured.shape[1], axis=1)
    finite = np.isfinite(measured)
    if finite.sum() < 2:
        return float("nan")
    # As scipy.stats.spearmanr, which also computes a p-value and takes several times as long.
    asked, found = (ranks - ranks.mean() for ranks in (rankdata(requested[finite]), rankdata(measured[finite])))
    with np.errstate(invalid="ignore"):  # all values are equal: NaN
        return float(asked @ found / np.sqrt((asked @ asked) * (found @ found)))


def _bootstrap_over_clips(measured: FloatMatrix, score: Callable[[FloatMatrix], float]) -> Estimate:
    count = measured.shape[1]
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, (NUM_BOOTSTRAP_RESAMPLES, count))
    distinct, places = distinct_draws(draws)
    scores = np.array([score(measured[:, draw]) for draw in distinct])[places]
    return Estimate(score(measured), *percentile_interval(scores), count)

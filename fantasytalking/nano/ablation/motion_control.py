"""How the motion that videos show follows the motion that was asked for.

Axes: M intensities, N clips.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.report.markdown import format_estimate
from fantasytalking.evaluation.report.results import EvaluationResults
from fantasytalking.evaluation.report.statistics import BOOTSTRAP_SEED, CONFIDENCE_LEVEL, Estimate, percentile_interval

CONTROLLED_VALUES = {
    "motion_expression": "expression, 1e-3",
    "motion_body": "body, 1e-3",
    "sd_dis": "subject flow, pixels",
}
"""What should rise with the intensity that is asked for, and its name."""
PRESERVED_VALUES = {"mouth_truth": "mouth against the truth", "csim_nano": "identity, cosine"}
"""What should stay, and its name."""
NUM_BOOTSTRAP_RESAMPLES = 1000

FloatMatrix = NDArray[np.float64]


def motion_control_table(intensities: Sequence[float], results: Sequence[EvaluationResults]) -> list[str]:
    """Requested against measured motion as a Markdown table, with intervals over clips.

    Args:
        intensities: M, ascending.
        results: of the same clips at each of them.
    """
    levels = [f"at {intensity:g}" for intensity in intensities]
    found = ["Spearman, all clips together", "Spearman, each clip by itself", "highest : lowest"]
    heads = ["", *levels, *(f"{name} [{CONFIDENCE_LEVEL:g} %]" for name in found)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
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
            cells += ["–"] * len(found)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def motion_response(intensities: Sequence[float], measured: FloatMatrix) -> tuple[Estimate, Estimate, Estimate]:
    """Spearman's correlation over all clips, the same with each clip by itself, and the ratio of the means at the ends.

    By itself: what differs between people and sentences is taken out, as a factor, since intensities are logarithms of
    what is measured.

    Args:
        measured: (M, N), not negative; NaN where it could not be measured.
    """

    def ratio(values: FloatMatrix) -> float:
        return float(np.nanmean(values[-1]) / np.nanmean(values[0]))

    return (
        _bootstrap_over_clips(measured, lambda values: request_correlation(intensities, values)),
        _bootstrap_over_clips(measured, lambda values: request_correlation(intensities, center_per_clip(values))),
        _bootstrap_over_clips(measured, ratio),
    )


def center_per_clip(measured: FloatMatrix) -> FloatMatrix:
    """(M, N) logarithms less each clip's mean; a clip that was not measured at every intensity is left out (NaN)."""
    logarithms = np.log(np.maximum(measured, np.finfo(np.float64).tiny))
    return np.asarray(logarithms - logarithms.mean(axis=0, keepdims=True))


def request_correlation(intensities: Sequence[float], measured: FloatMatrix) -> float:
    """Spearman's correlation of M intensities with what clips showed at them.

    Args:
        measured: (M, N); NaN where it could not be measured.
    """
    from scipy.stats import spearmanr

    asked = np.repeat(np.asarray(intensities)[:, None], measured.shape[1], axis=1)
    known = np.isfinite(measured)
    return float(spearmanr(asked[known], measured[known]).statistic)


def _bootstrap_over_clips(measured: FloatMatrix, score: Callable[[FloatMatrix], float]) -> Estimate:
    count = measured.shape[1]
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, (NUM_BOOTSTRAP_RESAMPLES, count))
    return Estimate(
        score(measured), *percentile_interval(np.array([score(measured[:, draw]) for draw in draws])), count
    )

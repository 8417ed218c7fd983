"""What may be concluded from some clips: intervals over clips, floors, controls, and whether two runs differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide

BOOTSTRAP_SEED = 20250404
CONFIDENCE_LEVEL = 95.0
"""Per cent of an interval."""
FLOOR_SPLITS = 10
"""Halvings of the references for the floor of a distribution metric."""
MIN_CLIPS_FOR_INTERVAL = 2
"""From fewer clips no interval is drawn."""


@dataclass(frozen=True)
class Estimate:
    """A score and its interval; NaN where there is none."""

    score: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    """Clips that entered."""


Estimates = dict[str, Estimate]


def bootstrap_estimate(metric: Metric, measurements: Sequence[Measurement], resamples: int | None = None) -> Estimates:
    """Scores over clips with percentile-bootstrap intervals: clips are drawn with replacement, seeded.

    Frames of one clip are no independent observations, so that clips alone are resampled.
    """
    summary = metric.summarize(measurements)
    count = int(summary["n"])
    drawn = _bootstrap(metric, measurements, metric.resamples if resamples is None else resamples)
    result = {}
    for value in metric.values:
        score, scores = summary[value.name], drawn[value.name]
        if metric.distribution:
            # A resample holds some clips twice, which raises a distance of sets: its spread is laid round the score.
            scores = scores - np.nanmean(scores) + score
        low, high = percentile_interval(scores) if count >= MIN_CLIPS_FOR_INTERVAL else (np.nan, np.nan)
        result[value.name] = Estimate(score, low, high, count)
    return result


def _bootstrap(metric: Metric, measurements: Sequence[Measurement], resamples: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(BOOTSTRAP_SEED)
    draws = random.integers(0, len(measurements), (resamples, len(measurements)))
    summaries = [metric.summarize([measurements[index] for index in draw]) for draw in draws]
    return {value.name: np.array([summary[value.name] for summary in summaries]) for value in metric.values}


def percentile_interval(resampled_scores: NDArray[np.float64]) -> tuple[float, float]:
    """Within which `CONFIDENCE_LEVEL` per cent of these scores of resamples lie; NaN for fewer than two that are
    known."""
    known = resampled_scores[np.isfinite(resampled_scores)]
    if len(known) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [(100 - CONFIDENCE_LEVEL) / 2, (100 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def side_estimate(metric: Metric, measurements: Sequence[ClipMeasurements], side: MeasurementSide) -> Estimates | None:
    """Scores of one side; None where no clip has it."""
    records = [record[side] for record in measurements if side in record]
    return bootstrap_estimate(metric, records) if records else None


def floor_estimate(metric: Metric, measurements: Sequence[ClipMeasurements]) -> Estimates | None:
    """What real videos score against real ones; None where it cannot be had.

    Of a distribution metric: the references' one half of clips against the other, over seeded halvings, at half of N,
    where the bias of small sets is larger than in the score itself; the interval is that of the halvings. Of a paired
    metric: even against odd frames of the same reference. Of the others: the second half of every reference.
    """
    if not metric.distribution:
        return side_estimate(metric, measurements, MeasurementSide.FLOOR)
    records = [record[MeasurementSide.PREDICTION] for record in measurements]
    half = len(records) // 2
    if half < 1:
        return None
    random = np.random.default_rng(BOOTSTRAP_SEED)
    summaries = []
    for _ in range(FLOOR_SPLITS):
        order = random.permutation(len(records))
        pairs = zip(order[:half], order[half : 2 * half], strict=True)
        halves = [
            {**records[one], "video": records[one]["reference"], "reference": records[other]["reference"]}
            for one, other in pairs
        ]
        summaries.append(metric.summarize(halves))
    result = {}
    for value in metric.values:
        scores = np.array([summary[value.name] for summary in summaries])
        result[value.name] = Estimate(float(scores.mean()), *percentile_interval(scores), half)
    return result


def per_clip_scores(
    metric: Metric, measurements: Sequence[ClipMeasurements], side: MeasurementSide = MeasurementSide.PREDICTION
) -> dict[str, NDArray[np.float64]]:
    """(N,) scores of every clip alone by value; empty for a distribution metric."""
    if metric.distribution or any(side not in record for record in measurements):
        return {}
    summaries = [metric.summarize([record[side]]) for record in measurements]
    return {value.name: np.array([summary[value.name] for summary in summaries]) for value in metric.values}


@dataclass(frozen=True)
class PairedDifference:
    """Two runs on the same clips."""

    first: float
    second: float
    difference: float
    """Second less first; of a value that should meet the ground truth's: of the clips' mean distances to it."""
    low: float
    high: float
    p: float
    """Wilcoxon's signed-rank test over clips; NaN for a distribution metric and where too little is known."""
    n: int
    """Clips that both have a score of."""
    raw_difference: tuple[float, float, float] | None = None
    """Of a value that should meet the ground truth's: second less first of the value itself, and its interval."""


def compare_runs(
    metric: Metric, first: Sequence[ClipMeasurements], second: Sequence[ClipMeasurements]
) -> dict[str, PairedDifference]:
    """Paired comparison: the same clips are drawn for both, and each clip is compared with itself.

    Clips that either run (or the truth, where it is the aim) has no score of count for neither. Of a value that should
    meet the truth's, the difference is that of the clips' mean distances to it.
    """
    ones, others, aims = (
        per_clip_scores(metric, first),
        per_clip_scores(metric, second),
        per_clip_scores(metric, first, MeasurementSide.REFERENCE),
    )
    sides = [[record[MeasurementSide.PREDICTION] for record in run] for run in (first, second)]
    result = {}
    for value in metric.values:
        if value.name not in ones:  # of sets as a whole
            result[value.name] = PairedDifference(
                *_difference(metric, value, sides, range(len(first))), float("nan"), len(first)
            )
            continue
        one, other = ones[value.name], others[value.name]
        if value.better == "reference" and value.name in aims:
            one, other = abs(one - aims[value.name]), abs(other - aims[value.name])
        gaps = other - one
        clips = np.flatnonzero(np.isfinite(gaps)).tolist()
        scores, own = _difference(metric, value, sides, clips), None
        if value.better == "reference" and value.name in aims:
            scores, own = (*scores[:2], *_mean_difference(metric, gaps[clips])), scores[2:]
        result[value.name] = PairedDifference(*scores, _wilcoxon_p(gaps[clips]), len(clips), own)
    return result


def _difference(
    metric: Metric, value: MetricValue, sides: Sequence[Sequence[Measurement]], clips: Sequence[int]
) -> tuple[float, float, float, float, float]:
    """First, second, their difference over some clips, and its interval."""
    if not len(clips):
        return (float("nan"),) * 5
    chosen = [[run[index] for index in clips] for run in sides]
    first, second = (metric.summarize(run)[value.name] for run in chosen)
    drawn = []
    for draw in _bootstrap_indices(metric, len(clips)):
        one, other = (metric.summarize([run[index] for index in draw])[value.name] for run in chosen)
        drawn.append(other - one)
    return (first, second, second - first, *percentile_interval(np.array(drawn)))


def _mean_difference(metric: Metric, differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of clips' differences and its interval."""
    if not len(differences):
        return (float("nan"),) * 3
    return (
        float(differences.mean()),
        *percentile_interval(differences[_bootstrap_indices(metric, len(differences))].mean(axis=1)),
    )


def _bootstrap_indices(metric: Metric, count: int) -> NDArray[np.int64]:
    """(resamples, count) numbers of clips."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, (metric.resamples, count))


def _wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Wilcoxon's p of clips' differences."""
    if len(differences) < MIN_CLIPS_FOR_INTERVAL:
        return float("nan")
    # Equal runs give no ranks, and p is 1 by definition.
    return float(wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of several p for having asked several questions; NaN stays NaN."""
    order = [index for index in np.argsort(p_values) if np.isfinite(p_values[index])]
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected

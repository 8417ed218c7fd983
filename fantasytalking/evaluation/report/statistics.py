"""Statistics over clips: bootstrap intervals, floors, and paired comparisons of two runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide

BOOTSTRAP_SEED = 20250404
CONFIDENCE_LEVEL = 95.0
"""Confidence level of intervals in percent."""
FLOOR_SPLITS = 10
"""Number of random halvings of the references for the floor of a distribution metric."""
MIN_CLIPS_FOR_INTERVAL = 2
"""Smallest number of clips with an interval."""


@dataclass(frozen=True)
class Estimate:
    """A score and its confidence interval; NaN if there is none."""

    score: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    """Number of clips in the score."""


Estimates = dict[str, Estimate]


def bootstrap_estimate(metric: Metric, measurements: Sequence[Measurement], resamples: int | None = None) -> Estimates:
    """Returns scores with percentile-bootstrap intervals: clips are drawn with replacement, with a fixed seed.

    Frames of a clip are not independent observations, so only clips are resampled.

    Args:
        metric: metric that summarizes the measurements.
        measurements: one measurement per clip.
        resamples: number of resamples; None = that of the metric.
    """
    summary = metric.summarize(measurements)
    count = int(summary["n"])
    drawn = _bootstrap(metric, measurements, metric.resamples if resamples is None else resamples)
    result = {}
    for value in metric.values:
        score, scores = summary[value.name], drawn[value.name]
        if metric.distribution:
            # A resample has some clips twice, which raises a distance of sets: its spread is centered on the score.
            scores = scores - np.nanmean(scores) + score
        low, high = percentile_interval(scores) if count >= MIN_CLIPS_FOR_INTERVAL else (np.nan, np.nan)
        result[value.name] = Estimate(score, low, high, count)
    return result


def _bootstrap(metric: Metric, measurements: Sequence[Measurement], resamples: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(BOOTSTRAP_SEED)
    draws = random.integers(0, len(measurements), (resamples, len(measurements)))
    distinct, places = distinct_draws(draws)
    summaries = [metric.summarize([measurements[index] for index in draw]) for draw in distinct]
    return {value.name: np.array([summary[value.name] for summary in summaries])[places] for value in metric.values}


def distinct_draws(draws: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the distinct draws, which are few where clips are few, and the place of each draw among them."""
    distinct, places = np.unique(draws, axis=0, return_inverse=True)
    return distinct, places.reshape(-1)


def percentile_interval(resampled_scores: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the interval of `CONFIDENCE_LEVEL` percent of the scores; NaN for fewer than two finite ones."""
    known = resampled_scores[np.isfinite(resampled_scores)]
    if len(known) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [(100 - CONFIDENCE_LEVEL) / 2, (100 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def side_estimate(metric: Metric, measurements: Sequence[ClipMeasurements], side: MeasurementSide) -> Estimates | None:
    """Returns the scores of one side; None if no clip has it."""
    records = [record[side] for record in measurements if side in record]
    return bootstrap_estimate(metric, records) if records else None


def floor_estimate(metric: Metric, measurements: Sequence[ClipMeasurements]) -> Estimates | None:
    """Returns the score of real against real videos; None if it is not known.

    For a distribution metric, one half of the references is compared with the other, over seeded halvings. The bias of
    small sets is larger at half of N than in the score itself; the interval is that of the halvings. For a paired
    metric, even are compared with odd frames of a reference. For others, it is the second half of each reference.
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
    """Returns (N,) scores of single clips by value; empty for a distribution metric."""
    if metric.distribution or any(side not in record for record in measurements):
        return {}
    summaries = [metric.summarize([record[side]]) for record in measurements]
    return {value.name: np.array([summary[value.name] for summary in summaries]) for value in metric.values}


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two runs on the same clips."""

    first: float
    """Score of the first run."""
    second: float
    """Score of the second run."""
    difference: float
    """Second minus first. For a value whose target is that of the references: of the mean distances to it."""
    low: float
    """Lower end of the interval of `difference`."""
    high: float
    """Upper end of the interval of `difference`."""
    p: float
    """p of Wilcoxon's signed-rank test over clips; NaN for a distribution metric and for too few clips."""
    n: int
    """Number of clips with a score in both runs."""
    raw_difference: tuple[float, float, float] | None = None
    """Second minus first of the value itself and its interval, for a value whose target is that of the references."""


def compare_runs(
    metric: Metric, first: Sequence[ClipMeasurements], second: Sequence[ClipMeasurements]
) -> dict[str, PairedDifference]:
    """Compares two runs clip by clip, with the same resamples of clips for both.

    Clips without a score in one of the runs (or of the reference, if that is the target) are excluded from both. For a
    value whose target is that of the references, the difference is that of the mean distances to it.
    """
    first_scores, second_scores = per_clip_scores(metric, first), per_clip_scores(metric, second)
    targets = per_clip_scores(metric, first, MeasurementSide.REFERENCE)
    sides = [[record[MeasurementSide.PREDICTION] for record in run] for run in (first, second)]
    result = {}
    for value in metric.values:
        if value.name not in first_scores:  # a distribution metric
            result[value.name] = PairedDifference(
                *_difference(metric, value, sides, range(len(first))), float("nan"), len(first)
            )
            continue
        one, other = first_scores[value.name], second_scores[value.name]
        by_distance = value.better == "reference" and value.name in targets
        if by_distance:
            one, other = abs(one - targets[value.name]), abs(other - targets[value.name])
        gaps = other - one
        clips = np.flatnonzero(np.isfinite(gaps)).tolist()
        scores, raw = _difference(metric, value, sides, clips), None
        if by_distance:
            scores, raw = (*scores[:2], *_mean_difference(metric, gaps[clips])), scores[2:]
        result[value.name] = PairedDifference(*scores, _wilcoxon_p(gaps[clips]), len(clips), raw)
    return result


def _difference(
    metric: Metric, value: MetricValue, sides: Sequence[Sequence[Measurement]], clips: Sequence[int]
) -> tuple[float, float, float, float, float]:
    """Returns the first score, the second, their difference over some clips, and its interval."""
    if not len(clips):
        return (float("nan"),) * 5
    chosen = [[run[index] for index in clips] for run in sides]
    first, second = (metric.summarize(run)[value.name] for run in chosen)
    distinct, places = distinct_draws(_bootstrap_indices(metric, len(clips)))
    drawn = []
    for draw in distinct:
        one, other = (metric.summarize([run[index] for index in draw])[value.name] for run in chosen)
        drawn.append(other - one)
    return (first, second, second - first, *percentile_interval(np.array(drawn)[places]))


def _mean_difference(metric: Metric, differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns the mean of the differences of clips and its interval."""
    if not len(differences):
        return (float("nan"),) * 3
    return (
        float(differences.mean()),
        *percentile_interval(differences[_bootstrap_indices(metric, len(differences))].mean(axis=1)),
    )


def _bootstrap_indices(metric: Metric, count: int) -> NDArray[np.int64]:
    """Returns (resamples, count) indices of clips."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(0, count, (metric.resamples, count))


def _wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Returns p of Wilcoxon's signed-rank test on the differences of clips."""
    if len(differences) < MIN_CLIPS_FOR_INTERVAL:
        return float("nan")
    # Equal runs have no ranks: p is 1 by definition.
    return float(wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Returns p values with Holm's correction for multiple comparisons; NaN stays NaN."""
    order = [index for index in np.argsort(p_values) if np.isfinite(p_values[index])]
    corrected, largest = [float("nan")] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected

"""What may be concluded from some clips: intervals over clips, floors, controls, and whether two runs differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.records import Side, Sides

SEED = 20250404
LEVEL = 95.0
"""Per cent of an interval."""
SPLITS = 10
"""Halvings of the references for the floor of a distribution metric."""
LEAST_CLIPS = 2
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


def estimate(metric: Metric, records: Sequence[Record], resamples: int | None = None) -> Estimates:
    """Scores over clips with percentile-bootstrap intervals: clips are drawn with replacement, seeded.

    Frames of one clip are no independent observations, so that clips alone are resampled.
    """
    summary = metric.summarise(records)
    count = int(summary["n"])
    drawn = _bootstrap(metric, records, metric.resamples if resamples is None else resamples)
    result = {}
    for value in metric.values:
        score, scores = summary[value.name], drawn[value.name]
        if metric.distribution:
            # A resample holds some clips twice, which raises a distance of sets: its spread is laid round the score.
            scores = scores - np.nanmean(scores) + score
        low, high = interval(scores) if count >= LEAST_CLIPS else (np.nan, np.nan)
        result[value.name] = Estimate(score, low, high, count)
    return result


def _bootstrap(metric: Metric, records: Sequence[Record], resamples: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(SEED)
    draws = random.integers(0, len(records), (resamples, len(records)))
    summaries = [metric.summarise([records[index] for index in draw]) for draw in draws]
    return {value.name: np.array([summary[value.name] for summary in summaries]) for value in metric.values}


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Within which `LEVEL` per cent of these scores of resamples lie; NaN for fewer than two that are known."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def side_estimate(metric: Metric, sides: Sequence[Sides], side: Side) -> Estimates | None:
    """Scores of one side; None where no clip has it."""
    records = [record[side] for record in sides if side in record]
    return estimate(metric, records) if records else None


def floor_estimate(metric: Metric, sides: Sequence[Sides]) -> Estimates | None:
    """What real videos score against real ones; None where it cannot be had.

    Of a distribution metric: the references' one half of clips against the other, over seeded halvings, at half of N,
    where the bias of small sets is larger than in the score itself; the interval is that of the halvings. Of a paired
    metric: even against odd frames of the same reference. Of the others: the second half of every reference.
    """
    if not metric.distribution:
        return side_estimate(metric, sides, Side.FLOOR)
    records = [record[Side.PREDICTION] for record in sides]
    half = len(records) // 2
    if half < 1:
        return None
    random = np.random.default_rng(SEED)
    summaries = []
    for _ in range(SPLITS):
        order = random.permutation(len(records))
        pairs = zip(order[:half], order[half : 2 * half], strict=True)
        halves = [
            {**records[one], "video": records[one]["reference"], "reference": records[other]["reference"]}
            for one, other in pairs
        ]
        summaries.append(metric.summarise(halves))
    result = {}
    for value in metric.values:
        scores = np.array([summary[value.name] for summary in summaries])
        result[value.name] = Estimate(float(scores.mean()), *interval(scores), half)
    return result


def per_clip(metric: Metric, sides: Sequence[Sides], side: Side = Side.PREDICTION) -> dict[str, NDArray[np.float64]]:
    """(N,) scores of every clip alone by value; empty for a distribution metric."""
    if metric.distribution or any(side not in record for record in sides):
        return {}
    summaries = [metric.summarise([record[side]]) for record in sides]
    return {value.name: np.array([summary[value.name] for summary in summaries]) for value in metric.values}


@dataclass(frozen=True)
class Difference:
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
    own: tuple[float, float, float] | None = None
    """Of a value that should meet the ground truth's: second less first of the value itself, and its interval."""


def compare(metric: Metric, first: Sequence[Sides], second: Sequence[Sides]) -> dict[str, Difference]:
    """Paired comparison: the same clips are drawn for both, and each clip is compared with itself.

    Clips that either run (or the truth, where it is the aim) has no score of count for neither. Of a value that should
    meet the truth's, the difference is that of the clips' mean distances to it.
    """
    ones, others, aims = per_clip(metric, first), per_clip(metric, second), per_clip(metric, first, Side.TRUTH)
    sides = [[record[Side.PREDICTION] for record in run] for run in (first, second)]
    result = {}
    for value in metric.values:
        if value.name not in ones:  # of sets as a whole
            result[value.name] = Difference(*_gap(metric, value, sides, range(len(first))), float("nan"), len(first))
            continue
        one, other = ones[value.name], others[value.name]
        if value.better == "reference" and value.name in aims:
            one, other = abs(one - aims[value.name]), abs(other - aims[value.name])
        gaps = other - one
        clips = np.flatnonzero(np.isfinite(gaps)).tolist()
        scores, own = _gap(metric, value, sides, clips), None
        if value.better == "reference" and value.name in aims:
            scores, own = (*scores[:2], *_mean_gap(metric, gaps[clips])), scores[2:]
        result[value.name] = Difference(*scores, _signed_rank(gaps[clips]), len(clips), own)
    return result


def _gap(
    metric: Metric, value: Value, sides: Sequence[Sequence[Record]], clips: Sequence[int]
) -> tuple[float, float, float, float, float]:
    """First, second, their difference over some clips, and its interval."""
    if not len(clips):
        return (float("nan"),) * 5
    chosen = [[run[index] for index in clips] for run in sides]
    first, second = (metric.summarise(run)[value.name] for run in chosen)
    drawn = []
    for draw in _draws(metric, len(clips)):
        one, other = (metric.summarise([run[index] for index in draw])[value.name] for run in chosen)
        drawn.append(other - one)
    return (first, second, second - first, *interval(np.array(drawn)))


def _mean_gap(metric: Metric, gaps: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of clips' differences and its interval."""
    if not len(gaps):
        return (float("nan"),) * 3
    return (float(gaps.mean()), *interval(gaps[_draws(metric, len(gaps))].mean(axis=1)))


def _draws(metric: Metric, count: int) -> NDArray[np.int64]:
    """(resamples, count) numbers of clips."""
    return np.random.default_rng(SEED).integers(0, count, (metric.resamples, count))


def _signed_rank(gaps: NDArray[np.float64]) -> float:
    """Wilcoxon's p of clips' differences."""
    if len(gaps) < LEAST_CLIPS:
        return float("nan")
    # Equal runs give no ranks, and p is 1 by definition.
    return float(wilcoxon(gaps).pvalue) if np.any(gaps != 0) else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of several p for having asked several questions; NaN stays NaN."""
    order = [index for index in np.argsort(values) if np.isfinite(values[index])]
    corrected, largest = [float("nan")] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[index]))
        corrected[index] = largest
    return corrected

"""Statistics: coverage of intervals, floors, and paired tests on data with known differences."""

from collections.abc import Sequence
from math import isnan

import numpy as np
import pytest

from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide
from fantasytalking.evaluation.report.statistics import (
    bootstrap_estimate,
    compare_runs,
    floor_estimate,
    holm_correction,
    per_clip_scores,
    side_estimate,
)


class Plain(Metric):
    """The mean of the entries of the measurements."""

    name = "plain"
    values = (
        MetricValue("plain", "", "higher", "A number."),
        MetricValue("aimed", "", "reference", "A number with a target."),
    )
    paired = False

    def measure(self, video: object, reference: object) -> Measurement:
        raise NotImplementedError

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        return mean_over_clips(measurements, ("plain", "aimed"))


class Spread(Metric):
    """Squared distance between the means of two sets of features."""

    name = "spread"
    values = (MetricValue("spread", "", "lower", "A distance."),)
    paired, distribution = True, True
    resamples = 200

    def measure(self, video: object, reference: object) -> Measurement:
        raise NotImplementedError

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        video, real = (np.concatenate([record[key] for record in measurements]) for key in ("video", "reference"))
        return {"spread": float(np.square(video.mean(0) - real.mean(0)).sum()), "n": float(len(measurements))}


def records(values: Sequence[float], aimed: Sequence[float] | None = None) -> list[Measurement]:
    pairs = zip(values, aimed if aimed is not None else values, strict=True)
    return [{"plain": np.array(value), "aimed": np.array(other)} for value, other in pairs]


def runs(values: Sequence[float], aimed: Sequence[float], truth: float) -> list[ClipMeasurements]:
    return [
        {
            MeasurementSide.PREDICTION: record,
            MeasurementSide.REFERENCE: {"plain": np.array(0.0), "aimed": np.array(truth)},
        }
        for record in records(values, aimed)
    ]


def test_intervals_have_their_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        found = bootstrap_estimate(Plain(), records(random.normal(3.0, 1.0, 30)), resamples=200)["plain"]
        covered += found.low <= 3.0 <= found.high
    assert 0.88 <= covered / 100 <= 0.98


def test_intervals_are_seeded_and_narrower_with_more_clips() -> None:
    random = np.random.default_rng(1)
    few, many = random.normal(0, 1, 10), random.normal(0, 1, 400)
    first, again = (bootstrap_estimate(Plain(), records(few))["plain"] for _ in range(2))
    assert first == again
    wide, narrow = first, bootstrap_estimate(Plain(), records(many))["plain"]
    assert (narrow.high - narrow.low) < 0.35 * (wide.high - wide.low)
    assert narrow.n == 400


def test_unknown_clips_are_excluded_and_one_clip_has_no_interval() -> None:
    found = bootstrap_estimate(Plain(), records([1.0, float("nan"), 3.0]))["plain"]
    assert (found.score, found.n) == (2.0, 2)
    alone = bootstrap_estimate(Plain(), records([1.0]))["plain"]
    assert alone.score == 1.0
    assert isnan(alone.low)


def test_the_floor_of_a_distance_is_real_against_real() -> None:
    random = np.random.default_rng(2)
    sides: list[ClipMeasurements] = [
        {
            MeasurementSide.PREDICTION: {
                "video": random.normal(2.0, 1, (20, 4)),
                "reference": random.normal(0, 1, (20, 4)),
            }
        }
        for _ in range(12)
    ]
    metric = Spread()
    score = side_estimate(metric, sides, MeasurementSide.PREDICTION)
    floor = floor_estimate(metric, sides)
    assert score is not None and floor is not None
    assert score["spread"].score == pytest.approx(16, rel=0.2)
    assert score["spread"].low < score["spread"].score < score["spread"].high
    assert floor["spread"].score < 0.5
    assert floor["spread"].n == 6
    assert floor_estimate(metric, sides[:1]) is None
    assert per_clip_scores(metric, sides) == {}
    assert floor_estimate(Plain(), runs([1, 2], [1, 2], 0)) is None


def test_equal_runs_do_not_differ_and_a_shift_does() -> None:
    random = np.random.default_rng(3)
    values = random.normal(0, 1, 24)
    first = runs(values, values, 0.0)
    equal = compare_runs(Plain(), first, first)["plain"]
    assert (equal.difference, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    # Much smaller than the differences between clips, but the same for each clip.
    second = runs(values + 0.2 + random.normal(0, 0.05, 24), values, 0.0)
    shifted = compare_runs(Plain(), first, second)["plain"]
    assert shifted.difference == pytest.approx(0.2, abs=0.04)
    assert 0 < shifted.low < shifted.high
    assert shifted.p < 1e-4
    assert shifted.n == 24
    noise = runs(values + random.normal(0, 0.05, 24), values, 0.0)
    assert compare_runs(Plain(), first, noise)["plain"].p > 0.01


def test_values_with_a_target_are_compared_by_distance() -> None:
    near, far = runs([0] * 8, [1.1] * 8, truth=1.0), runs([0] * 8, [0.5] * 8, truth=1.0)
    found = compare_runs(Plain(), near, far)["aimed"]
    assert (found.first, found.second) == pytest.approx((1.1, 0.5))
    assert found.difference == pytest.approx(0.4)
    assert found.p < 0.01
    assert found.raw_difference == pytest.approx((-0.6, -0.6, -0.6)), "it fell and moved away from the target"
    assert compare_runs(Plain(), near, far)["plain"].raw_difference is None


def test_clips_without_a_score_are_excluded_from_both_runs() -> None:
    """A run without scores of the hard clips is not better on the others."""
    first = runs([0.9] * 10 + [0.1] * 10, [0] * 20, 0.0)
    second = runs([0.85] * 10 + [float("nan")] * 10, [0] * 20, 0.0)
    found = compare_runs(Plain(), first, second)["plain"]
    assert (found.first, found.second, found.n) == (pytest.approx(0.9), pytest.approx(0.85), 10)
    assert (found.difference, found.low, found.high) == pytest.approx((-0.05, -0.05, -0.05))
    assert isnan(compare_runs(Plain(), first, runs([float("nan")] * 20, [0] * 20, 0.0))["plain"].difference)


def test_a_mean_at_its_target_is_not_every_clip_at_its_target() -> None:
    far, near = runs([0] * 20, [1.0, -1.0] * 10, truth=0.0), runs([0] * 20, [0.2] * 20, truth=0.0)
    found = compare_runs(Plain(), far, near)["aimed"]
    assert (found.first, found.second) == (0.0, pytest.approx(0.2))
    assert found.difference == pytest.approx(-0.8) and found.high < 0 and found.p < 1e-3


def test_distribution_metrics_use_the_same_resamples_for_both_runs() -> None:
    random = np.random.default_rng(4)
    real = [random.normal(0, 1, (20, 4)) for _ in range(10)]

    def run(shift: float) -> list[ClipMeasurements]:
        return [{MeasurementSide.PREDICTION: {"video": part + shift, "reference": part}} for part in real]

    found = compare_runs(Spread(), run(1.0), run(2.0))["spread"]
    assert found.difference == pytest.approx(12)
    assert found.low == pytest.approx(12)
    assert isnan(found.p)


def test_holm() -> None:
    assert holm_correction([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_correction([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm_correction([float("nan"), 0.02])
    assert isnan(corrected[0])
    assert corrected[1] == 0.02

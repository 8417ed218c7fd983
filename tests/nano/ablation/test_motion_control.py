"""Tests of the statistics of requested and measured motion."""

import numpy as np
import pytest

from fantasytalking.evaluation.report.results import EvaluationResults, ResultRow
from fantasytalking.evaluation.report.statistics import Estimate
from fantasytalking.nano.ablation.motion_control import (
    center_per_clip,
    motion_control_table,
    motion_response,
    request_correlation,
)

ASKED = [0.1, 0.5, 1.0]
# What three intensities of many clips can reach at most, since clips of one intensity are ties where it is asked for.
MOST = 0.943


def test_correlation_uses_ranks_and_ignores_missing_measurements() -> None:
    measured = np.array([[0.1, 1.0], [0.2, np.nan], [30.0, 40.0]])
    assert request_correlation(ASKED, np.array([[1.0], [2.0], [9.0]])) == pytest.approx(1)
    assert request_correlation(ASKED, np.array([[9.0], [2.0], [1.0]])) == pytest.approx(-1)
    assert 0 < request_correlation(ASKED, measured) < 1


def test_centering_per_clip_removes_differences_between_people() -> None:
    people = np.array([1.0, 50.0, 3000.0, 7.0, 0.2, 400.0])
    measured = people * np.array([[1.0], [1.5], [2.5]]) ** np.linspace(0.9, 1.1, 6)  # (3, 6): everyone follows
    together, alone, ratio = motion_response(ASKED, measured)
    assert together.score < 0.4 and together.n == 6
    assert alone.score == pytest.approx(MOST, abs=0.01)
    assert 2.5**0.9 <= ratio.low < ratio.score < ratio.high <= 2.5**1.1


def test_clips_that_do_not_follow_lower_the_correlation_and_widen_the_interval() -> None:
    measured = np.array([[1.0], [1.5], [2.5]]) ** np.linspace(0.9, 1.1, 8)
    measured[:, 3] = measured[::-1, 3]
    _, alone, ratio = motion_response(ASKED, measured)
    assert alone.low < alone.score < alone.high < MOST + 0.01
    assert alone.score < 0.9 and ratio.low < ratio.score < 2.5


def test_clips_with_missing_measurements_are_ignored_and_still_ones_are_not() -> None:
    measured = np.array([[1.0, 1.0, 0.0], [2.0, np.nan, 1.0], [4.0, 4.0, 2.0]])
    alone = center_per_clip(measured)
    assert np.isnan(alone[:, 1]).all() and np.isfinite(alone[:, [0, 2]]).all()
    assert np.diff(alone[:, [0, 2]], axis=0).min() > 0


def _results(value: float) -> EvaluationResults:
    def row(name: str, scores: dict[str, float]) -> ResultRow:
        return ResultRow(
            "", name, "", "", "", Estimate(float(np.mean(list(scores.values())))), None, None, None, scores, {}
        )

    clips = ["a", "b"]
    rows = [row("motion_expression", {"a": value, "b": 2 * value}), row("csim_nano", {"a": 0.7, "b": 0.9})]
    return EvaluationResults("", "", "", clips, 25, 96, 96, rows, [], [])


def test_the_table_lists_only_values_measured_at_every_intensity() -> None:
    results = [_results(value) for value in (1.0, 2.0, 3.0)]
    incomplete = results[1].find_row("csim_nano")
    lines = motion_control_table(ASKED, results)
    assert lines[0].startswith("|  | at 0.1 | at 0.5 | at 1 | Spearman")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["expression, 1e-3", "identity, cosine"]
    assert [cell.strip() for cell in lines[2].split("|")[2:5]] == ["1.5", "3", "4.5"]
    assert lines[3].count("–") == 3
    assert incomplete is not None
    results[1].rows.remove(incomplete)
    assert len(motion_control_table(ASKED, results)) == 3

"""Clips of several people: one clip per person, from left to right, each with its own ground truth."""

from collections.abc import Callable

import numpy as np
import pytest

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.ground_truth import GroundTruth
from fantasytalking.evaluation.metrics.reenactment.lmd import LMD
from fantasytalking.evaluation.records import MeasurementSide
from fantasytalking.evaluation.runner import measure_sides
from tests.evaluation.video_edits import freeze_frames, trim_to_shortest


def beside(left: EvaluationClip, right: EvaluationClip) -> EvaluationClip:
    """Places two clips of one length next to each other."""
    left, right = trim_to_shortest(left, right)
    return EvaluationClip.from_arrays(np.concatenate([left.frames, right.frames], axis=2), left.fps)


def constant_truth(value: float) -> Callable[[], GroundTruth]:
    return lambda: {"mouth_open": np.full(500, value)}


def test_people_are_found_from_left_to_right(clips: list[EvaluationClip]) -> None:
    for one, other in ((clips[0], clips[2]), (clips[2], clips[0])):
        both = beside(one, other).with_people([constant_truth(0.0), constant_truth(1.0)])
        left, right = both.people
        count, width = len(both.frames), both.frames.shape[2]
        assert left.track.known.all() and right.track.known.all()
        for person, alone, shift in ((left, one, 0), (right, other, width // 2)):
            expected = alone.track.landmarks[:count] + np.array([shift, 0, 0])
            assert np.median(np.abs(person.track.landmarks - expected)) < 1.0
        assert (left.true_mouth_opening[0], right.true_mouth_opening[0]) == (0.0, 1.0)
        later = both.slice_frames(slice(10, None))
        assert np.array_equal(later.people[1].track.landmarks, right.track.landmarks[10:])
        assert len(later.people[1].true_mouth_opening) == count - 10


def test_all_faces_are_unknown_if_one_is_missing(clips: list[EvaluationClip]) -> None:
    single = EvaluationClip.from_arrays(clips[0].frames[:10], 25.0).with_people([None, None])
    assert not any(person.track.known.any() for person in single.people)


def test_a_metric_of_one_face_is_averaged_over_people(clips: list[EvaluationClip]) -> None:
    one, other = trim_to_shortest(clips[0], clips[2])
    still = freeze_frames(one)
    assert clips[0].people == (clips[0],)
    drivers = EvaluationClip.merge_people([one, other])
    sides = measure_sides(LMD(), EvaluationClip.merge_people([still, other]), drivers, None)
    alone = float(LMD().measure(still, one)["lmd"])
    assert float(sides[MeasurementSide.PREDICTION]["lmd"]) == pytest.approx(alone / 2)
    assert alone > 0.01
    floors = [float(measure_sides(LMD(), part, part, None)[MeasurementSide.FLOOR]["lmd"]) for part in (one, other)]
    assert float(sides[MeasurementSide.FLOOR]["lmd"]) == pytest.approx(np.mean(floors))

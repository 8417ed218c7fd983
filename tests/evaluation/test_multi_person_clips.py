"""Several people in one clip: each is looked at alone, from left to right, and knows what only that one truly does."""

from collections.abc import Callable

import numpy as np
import pytest

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.ground_truth import Truth
from fantasytalking.evaluation.metrics.reenactment.lmd import LMD
from fantasytalking.evaluation.records import Side
from fantasytalking.evaluation.runner import measure_sides
from tests.evaluation.video_edits import frozen, same_length


def beside(left: Clip, right: Clip) -> Clip:
    """Two clips of one length in one picture."""
    left, right = same_length(left, right)
    return Clip.from_arrays(np.concatenate([left.frames, right.frames], axis=2), left.fps)


def told(value: float) -> Callable[[], Truth]:
    return lambda: {"mouth_open": np.full(500, value)}


def test_people_are_found_from_left_to_right(clips: list[Clip]) -> None:
    for one, other in ((clips[0], clips[2]), (clips[2], clips[0])):
        both = beside(one, other).with_people([told(0.0), told(1.0)])
        left, right = both.people
        count, width = len(both.frames), both.frames.shape[2]
        assert left.track.known.all() and right.track.known.all()
        for person, alone, shift in ((left, one, 0), (right, other, width // 2)):
            expected = alone.track.landmarks[:count] + np.array([shift, 0, 0])
            assert np.median(np.abs(person.track.landmarks - expected)) < 1.0
        assert (left.true_opening[0], right.true_opening[0]) == (0.0, 1.0)
        later = both.part(slice(10, None))
        assert np.array_equal(later.people[1].track.landmarks, right.track.landmarks[10:])
        assert len(later.people[1].true_opening) == count - 10


def test_nobody_is_known_where_somebody_is_missing(clips: list[Clip]) -> None:
    lonely = Clip.from_arrays(clips[0].frames[:10], 25.0).with_people([None, None])
    assert not any(person.track.known.any() for person in lonely.people)


def test_a_metric_of_faces_is_averaged_over_people(clips: list[Clip]) -> None:
    one, other = same_length(clips[0], clips[2])
    still = frozen(one)
    assert clips[0].people == (clips[0],)
    drivers = Clip.together([one, other])
    sides = measure_sides(LMD(), Clip.together([still, other]), drivers, None)
    alone = float(LMD().measure(still, one)["lmd"])
    assert float(sides[Side.PREDICTION]["lmd"]) == pytest.approx(alone / 2)
    assert alone > 0.01
    floors = [float(measure_sides(LMD(), part, part, None)[Side.FLOOR]["lmd"]) for part in (one, other)]
    assert float(sides[Side.FLOOR]["lmd"]) == pytest.approx(np.mean(floors))

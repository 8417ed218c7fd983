"""The range of face sizes and places: fitted to clips, stored, read strictly."""

import json
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.face_range import (
    FACE_RANGES_FILE,
    FacePlacement,
    FaceRange,
    face_ranges_from_dict,
    face_ranges_to_dict,
    fit_face_ranges,
    load_face_ranges,
    save_face_ranges,
)
from tests.helpers.errors import raises_input_error

KNOWN = FaceRange((0.5, 0.6), (0.45, 0.55), (0.5, 0.6))


def test_ranges_are_fitted_by_the_number_of_people():
    alone = [(1, FacePlacement(0.5 + 0.001 * number, 0.5, 0.55)) for number in range(101)]
    mistaken = [(1, FacePlacement(0.02, 0.9, 0.1))]
    ranges = fit_face_ranges([*alone, *mistaken, (2, FacePlacement(0.3, 0.4, 0.6))])
    assert list(ranges) == [1, 2] and fit_face_ranges([]) == {}
    assert ranges[1].height == pytest.approx((0.5, 0.599), abs=2e-3), "one mistaken clip does not widen it"
    assert ranges[2] == FaceRange((0.3, 0.3), (0.4, 0.4), (0.6, 0.6))


def test_several_faces_are_placed_by_the_smallest_and_by_their_middle():
    boxes = np.array([[10, 20, 30, 60], [60, 40, 90, 60]], np.float32)
    assert FacePlacement.from_boxes(boxes, 200, 100) == pytest.approx((0.2, 0.25, 0.4))


def test_what_lies_inside():
    assert KNOWN.contains(FacePlacement(0.5, 0.55, 0.6)) and KNOWN.contains(FacePlacement(0.492, 0.442, 0.608))
    assert not KNOWN.contains(FacePlacement(0.48, 0.5, 0.55)) and not KNOWN.contains(FacePlacement(0.63, 0.5, 0.55))
    assert not KNOWN.contains(FacePlacement(0.55, 0.6, 0.55)) and not KNOWN.contains(FacePlacement(0.55, 0.5, 0.45))


def test_the_middle_half():
    middle = KNOWN.middle
    assert middle.height == pytest.approx((0.525, 0.575)) and middle.y == pytest.approx((0.525, 0.575))
    assert middle.x == pytest.approx((0.475, 0.525))


def test_ranges_survive_json(tmp_path: Path):
    ranges = {1: KNOWN, 2: FaceRange((0.2, 0.3), (0.4, 0.6), (0.4, 0.6))}
    assert face_ranges_from_dict(json.loads(json.dumps(face_ranges_to_dict(ranges))), "a test") == ranges
    for stored in (ranges, {}):
        save_face_ranges(stored, tmp_path)
        assert load_face_ranges(tmp_path) == stored
    (tmp_path / FACE_RANGES_FILE).unlink()
    assert load_face_ranges(tmp_path) == {} == face_ranges_from_dict(None, "a test")
    assert face_ranges_to_dict({}) is None


@pytest.mark.parametrize(
    "entry",
    [
        *([], "1", 3, {"one": {}}, {"-1": {}}, {"1": []}, {"1": {"height": [0.1, 0.2]}}),
        {"1": {"height": [0.2, 0.1], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [0.1, 0.2, 0.3], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [0, 0.2], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [0.1, float("inf")], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [float("nan"), 0.2], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [True, 1], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": ["0.1", 0.2], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1": {"height": [0.1, 10**400], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
        {"1" * 5000: {"height": [0.1, 0.2], "x": [0.4, 0.5], "y": [0.4, 0.5]}},
    ],
)
def test_another_entry_is_named(entry):
    with raises_input_error(ErrorCode.malformed_file, "face_ranges") as error:
        face_ranges_from_dict(entry, "some/config.json")
    assert str(error.value).startswith("some/config.json: face_ranges is ") and len(str(error.value)) < 400

"""Windows that bring faces into a range, and the line about faces that are not."""

import numpy as np
import pytest

from fantasytalking.face_range import FacePlacement, FaceRange
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket
from fantasytalking.pipeline.face_fit import CropWindow, fitting_window, framing_warning

KNOWN = FaceRange((0.5, 0.6), (0.45, 0.55), (0.5, 0.6))
KNOWN_SMALL = FaceRange((0.2, 0.3), (0.45, 0.55), (0.5, 0.6))
SQUARE, WIDE = ResolutionBucket(96, 96), ResolutionBucket(160, 96)


def face(x: float, y: float, height: float) -> np.ndarray:
    """The box of a face with its center at (x, y)."""
    return np.array([[x - 0.4 * height, y - height / 2, x + 0.4 * height, y + height / 2]])


def placement_in(window: CropWindow, boxes: np.ndarray) -> FacePlacement:
    moved = boxes - np.array([window.left, window.top, window.left, window.top])
    return FacePlacement.from_boxes(moved, window.right - window.left, window.bottom - window.top)


def window_of(
    shape: tuple[int, int], boxes: np.ndarray, bucket=SQUARE, least: float = 0.0, known=KNOWN
) -> CropWindow | None:
    window = fitting_window(shape, boxes, bucket, known, least)
    if window is not None:
        assert 0 <= window.left < window.right <= shape[1] and 0 <= window.top < window.bottom <= shape[0]
        aspect = (window.right - window.left) / (window.bottom - window.top)
        assert aspect == pytest.approx(bucket.width / bucket.height, rel=0.02)
    return window


@pytest.mark.parametrize("shape", [(400, 400), (400, 900)])
def test_a_framing_within_the_range_is_kept(shape):
    assert window_of(shape, face(shape[1] / 2, 220, 220)) is None
    assert window_of(shape, face(shape[1] / 2, 220, 196)) is None, "within the tolerance"


@pytest.mark.parametrize("height", [20, 80, 160])
@pytest.mark.parametrize("place", [(300, 300), (240, 180), (400, 420)])
@pytest.mark.parametrize("bucket", [SQUARE, WIDE])
def test_a_small_face_is_brought_nearer(height, place, bucket):
    boxes = face(*place, height)
    window = window_of((600, 640), boxes, bucket)
    assert window is not None and KNOWN.contains(placement_in(window, boxes))
    assert placement_in(window, boxes).height == pytest.approx(0.525, rel=0.04), "the nearest of the middle half"


def test_a_face_near_the_border_is_cropped_closer_within_the_range():
    boxes = face(160, 220, 200)
    window = window_of((400, 400), boxes)
    assert window is not None and KNOWN.contains(placement_in(window, boxes))
    assert 0.5 < placement_in(window, boxes).height <= 0.62


@pytest.mark.parametrize(
    ("boxes", "size"), [(face(60, 220, 120), 0.525), (face(200, 60, 100), 0.525), (face(200, 220, 300), 0.575)]
)
def test_faces_at_the_border_and_large_ones_get_room_beyond_the_picture(boxes, size):
    window = fitting_window((400, 400), boxes, SQUARE, KNOWN, 0.0)
    assert window is not None and 0 < window.outside_fraction((400, 400)) <= 0.5
    assert KNOWN.contains(placement_in(window, boxes))
    assert placement_in(window, boxes).height == pytest.approx(size, rel=0.02)
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    part = window.extract(image)
    assert part.shape == (window.bottom - window.top, window.right - window.left, 3)
    inside = part[max(0, -window.top) :, max(0, -window.left) :]
    inside = inside[: 400 - max(0, window.top), : 400 - max(0, window.left)]
    np.testing.assert_array_equal(inside, CropWindow(*np.clip(window, 0, 400).tolist()).extract(image))


def test_there_is_a_limit_to_the_room_beyond_the_picture():
    boxes = face(100, 100, 190)
    window = window_of((200, 200), boxes, known=KNOWN_SMALL)
    assert window is None or window == CropWindow(0, 0, 200, 200)


def test_the_least_fraction_that_was_asked_for_counts():
    boxes = face(200, 220, 220)
    window = window_of((400, 400), boxes, least=0.8)
    assert window is not None and placement_in(window, boxes).height == pytest.approx(0.8, rel=0.03)


def test_several_small_faces_all_stay():
    boxes = np.concatenate([face(200, 200, 60), face(420, 210, 80)])
    window = window_of((600, 800), boxes, WIDE)
    assert window is not None
    assert (boxes[:, :2] >= (window.left, window.top)).all() and (boxes[:, 2:] <= (window.right, window.bottom)).all()
    assert placement_in(window, boxes).height > 60 / 480, "nearer than the largest crop"


@pytest.mark.parametrize(
    ("placement", "mode", "told"),
    [
        (FacePlacement(0.3, 0.5, 0.55), ResizeMode.crop, ("30%", "50% to 60%", "resize_mode=fit")),
        (FacePlacement(0.8, 0.5, 0.55), ResizeMode.crop, ("80%", "50% to 60%", "more around the head")),
        (FacePlacement(0.55, 0.3, 0.7), ResizeMode.fit, ("30%", "70%", "45% to 55%", "more around the head")),
    ],
)
def test_faces_outside_the_range_are_told_in_one_line(placement, mode, told):
    line = framing_warning(placement, 1, {1: KNOWN}, mode, 0.0)
    assert line is not None and "\n" not in line and all(part in line for part in told)
    assert ("resize_mode=fit" in line) == (mode is not ResizeMode.fit and placement.height < 0.6)
    assert framing_warning(placement, 2, {1: KNOWN}, mode, 0.0) is None, "unknown for two people"
    inside = FacePlacement(0.55, 0.5, 0.55)
    assert framing_warning(inside, 1, {1: KNOWN}, mode, 0.0) is None
    line = framing_warning(inside, 1, {1: KNOWN}, ResizeMode.fit, 0.3)
    assert line is not None and "30% of the portrait" in line and "resize_mode=crop" in line

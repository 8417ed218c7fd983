"""Brings the faces of a portrait to the sizes and places that a model was trained on, and says where that fails."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.face_range import FacePlacement, FaceRange, FaceRanges, Interval
from fantasytalking.media.resolution import ResizeMode, ResolutionBucket

GROUP_CROP_MARGIN = 1.25
"""Size of the tightest crop around several faces, relative to their bounding box."""
MIN_WINDOW_SIDE = 16
MAX_OUTSIDE = 0.5
"""Largest fraction of a portrait that repeats the border of its image."""
MIN_REPORTED_OUTSIDE = 0.02
"""Smallest such fraction that is reported."""


class CropWindow(NamedTuple):
    """The part [left, right) x [top, bottom) of an image, in pixels; it may leave the image."""

    left: int
    top: int
    right: int
    bottom: int

    def outside_fraction(self, shape: tuple[int, ...]) -> float:
        """Fraction of the window that lies outside an image of a height and width."""
        inside_width = min(self.right, shape[1]) - max(self.left, 0)
        inside_height = min(self.bottom, shape[0]) - max(self.top, 0)
        return 1 - inside_width * inside_height / ((self.right - self.left) * (self.bottom - self.top))

    def extract(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the part of an (H, W, 3) image; outside it, the pixels of its border are repeated."""
        rows = np.arange(self.top, self.bottom).clip(0, image.shape[0] - 1)
        columns = np.arange(self.left, self.right).clip(0, image.shape[1] - 1)
        if self.outside_fraction(image.shape) > 0:
            return np.ascontiguousarray(image[rows][:, columns])
        return np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right])


class _Axis(NamedTuple):
    """One axis of the image, and where the faces lie on it, in pixels."""

    length: float
    low: float
    high: float
    """Ends of the area that the faces cover."""

    @property
    def center(self) -> float:
        return (self.low + self.high) / 2

    def longest_side(self, known: Interval) -> float:
        """Longest window within the image in which the center can lie in an interval of fractions of the window."""
        low, high = known
        before = self.center / low
        behind = (self.length - self.center) / (1 - high) if high < 1 else math.inf
        return max(0.0, min(self.length, before, behind))

    def start(self, side: float, fraction: float) -> float:
        """Start of the window around all faces whose center of faces lies nearest to `fraction`."""
        start = self.center - fraction * side
        return start if side < self.high - self.low else min(max(start, self.high - side), self.low)

    def start_inside(self, side: float, fraction: float) -> float:
        """As `start`, within the image."""
        return min(max(0.0, self.start(side, fraction)), self.length - side)


def fitting_window(
    shape: tuple[int, int],
    boxes: NDArray[np.floating],
    bucket: ResolutionBucket,
    face_range: FaceRange,
    min_face_fraction: float,
) -> CropWindow | None:
    """Returns a window in which the faces have a size and a place of the range.

    The largest window around the faces is kept where it is one. Else size and place become the nearest ones of the
    middle half of the range.

    The window leaves the image where faces are too large or too near to its border. If more than `MAX_OUTSIDE` of it
    would be outside, it comes as near to the range as the image allows instead.

    Args:
        shape: height and width of the image.
        boxes: (P, 4) left, top, right, bottom of the faces in pixels.
        bucket: the size whose aspect ratio the window has.
        min_face_fraction: least height of the faces, relative to the window's.

    Returns:
        the window; None: the largest window around the faces is one.
    """
    columns, rows = _axes(shape, boxes)
    aspect = bucket.width / bucket.height
    smallest = float((boxes[:, 3] - boxes[:, 1]).min())
    largest = min(columns.length / aspect, rows.length)

    def placement(left: float, top: float, height: float) -> FacePlacement:
        return FacePlacement(
            smallest / height, (columns.center - left) / (height * aspect), (rows.center - top) / height
        )

    whole = placement(columns.start_inside(largest * aspect, 0.5), rows.start_inside(largest, 0.5), largest)
    if face_range.contains(whole) and whole.height >= min_face_fraction:
        return None
    target = face_range.middle
    size = max(min_face_fraction, _nearest(whole.height, target.height))
    x, y = _nearest(whole.x, target.x), _nearest(whole.y, target.y)
    tightest = _tightest(boxes, aspect)

    # Within the image: of the wanted size, or smaller, as far as the range goes, where the place demands it.
    upper = min(largest, max(tightest, smallest / size))
    lower = min(upper, max(tightest, smallest / max(size, face_range.height[1])))
    placed = min(columns.longest_side(target.x) / aspect, rows.longest_side(target.y))
    height = min(upper, max(lower, placed))
    left, top = columns.start_inside(height * aspect, x), rows.start_inside(height, y)
    inside = _rounded(left, top, height * aspect, height)
    if face_range.contains(placement(left, top, height)):
        return inside

    # Beyond the image.
    height = max(tightest, smallest / size)
    free = _rounded(columns.start(height * aspect, x), rows.start(height, y), height * aspect, height)
    return free if free.outside_fraction(shape) <= MAX_OUTSIDE else inside


def zoomed_window(
    shape: tuple[int, int], boxes: NDArray[np.floating], bucket: ResolutionBucket, face_fraction: float
) -> CropWindow:
    """Returns the window in which the smallest face has `face_fraction` of the height, or in which all faces just fit,
    centered on the faces."""
    height, width = shape
    columns, rows = _axes(shape, boxes)
    crop_height = float((boxes[:, 3] - boxes[:, 1]).min()) / face_fraction
    if len(boxes) > 1:
        crop_height = max(crop_height, _tightest(boxes, bucket.width / bucket.height))
    crop_width = crop_height * bucket.width / bucket.height
    shrink = min(1.0, width / crop_width, height / crop_height)
    high, wide = max(MIN_WINDOW_SIDE, round(crop_height * shrink)), max(MIN_WINDOW_SIDE, round(crop_width * shrink))
    left = min(max(0, round(columns.center - wide / 2)), max(0, width - wide))
    top = min(max(0, round(rows.center - high / 2)), max(0, height - high))
    return CropWindow(left, top, min(width, left + wide), min(height, top + high))


def framing_warning(
    placement: FacePlacement,
    num_faces: int,
    face_ranges: FaceRanges,
    resize_mode: ResizeMode,
    outside_fraction: float,
) -> str | None:
    """Returns one line about faces that are outside the sizes and places that a model was trained on, or that were
    brought there by repeating the border of the image.

    Args:
        placement: of the faces in the portrait at the model's size.
        num_faces: number of faces in it.
        face_ranges: of the model.
        resize_mode: how the image became the portrait.
        outside_fraction: fraction of the portrait that repeats the border of the image.

    Returns:
        what was measured, the range and the cure; None: they are within it, or it is unknown.
    """
    known = face_ranges.get(num_faces)
    if known is None:
        return None
    if known.contains(placement):
        return _extension_warning(outside_fraction) if outside_fraction >= MIN_REPORTED_OUTSIDE else None
    fit = "" if resize_mode is ResizeMode.fit else ", or use resize_mode=fit"
    subject = "the face takes" if num_faces == 1 else "the smallest face takes"
    low, high = known.height
    if not known.contains_height(placement.height):
        is_small = placement.height < low
        cure = f"an image that shows it nearer{fit}" if is_small else "an image with more around the head"
        return (
            f"{subject} {placement.height:.0%} of the portrait's height, and this model was trained on {low:.0%} to "
            f"{high:.0%}; mouth and face may blur: give {cure}"
        )
    what = "face is" if num_faces == 1 else "faces are"
    return (
        f"the {what} centered at {placement.x:.0%} of the portrait's width and {placement.y:.0%} of its height, and "
        f"this model was trained on {known.x[0]:.0%} to {known.x[1]:.0%} and {known.y[0]:.0%} to {known.y[1]:.0%}; "
        f"mouth and face may blur: give an image with more around the head{fit}"
    )


def _extension_warning(outside_fraction: float) -> str:
    return (
        f"the image ends too near to the face for the framing that this model was trained on: {outside_fraction:.0%} "
        "of the portrait repeats its border; give an image with more around the head, or use resize_mode=crop"
    )


def _axes(shape: tuple[int, int], boxes: NDArray[np.floating]) -> tuple[_Axis, _Axis]:
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return _Axis(shape[1], x0, x1), _Axis(shape[0], y0, y1)


def _tightest(boxes: NDArray[np.floating], aspect: float) -> float:
    """Height of the tightest window around several faces; a single one is bounded by its size alone."""
    if len(boxes) == 1:
        return 0.0
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    return GROUP_CROP_MARGIN * max(y1 - y0, (x1 - x0) / aspect)


def _nearest(value: float, known: Interval) -> float:
    return min(max(value, known[0]), known[1])


def _rounded(left: float, top: float, width: float, height: float) -> CropWindow:
    wide, high = max(MIN_WINDOW_SIDE, round(width)), max(MIN_WINDOW_SIDE, round(height))
    return CropWindow(round(left), round(top), round(left) + wide, round(top) + high)

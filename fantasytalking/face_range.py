"""The sizes and places of faces in the clips that a model was trained on.

A model renders faces well at the sizes that it has seen. The ranges are measured on the training corpus and stored with
every adapter and pipeline trained on it, so that inference can bring a portrait's faces into them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.text_files import read_json

FACE_RANGES_FILE = "face_ranges.json"
"""File name in the folder of a training run."""
FACE_PERCENTILES = (1, 99)
"""Percentiles of a corpus that bound the range: one mistaken clip must not widen it."""
HEIGHT_TOLERANCE = 0.02
"""Difference to the range, relative to the face's height, that is neither corrected nor reported."""
CENTER_TOLERANCE = 0.01
"""Difference to the range, relative to the frame, that is neither corrected nor reported."""

_MIN_BOUND, _MAX_BOUND = 1e-4, 2.0

Interval = tuple[float, float]


class FacePlacement(NamedTuple):
    """Size and place of the faces in an image or a clip, as fractions of the frame."""

    height: float
    """Height of the smallest face, relative to the frame's height."""
    x: float
    """Center of the area that the faces cover, from the left, relative to the frame's width."""
    y: float
    """Its center from the top, relative to the frame's height."""

    @classmethod
    def from_boxes(cls, boxes: NDArray[np.floating], width: float, height: float) -> "FacePlacement":
        """Measures (P, 4) boxes (left, top, right, bottom) in an image of a width and height in pixels."""
        (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
        smallest = float((boxes[:, 3] - boxes[:, 1]).min())
        return cls(smallest / height, (x0 + x1) / 2 / width, (y0 + y1) / 2 / height)


@dataclass(frozen=True)
class FaceRange:
    """Bounds of `FacePlacement` in the training clips with one number of people."""

    height: Interval
    x: Interval
    y: Interval

    @classmethod
    def fit(cls, placements: Sequence[FacePlacement]) -> "FaceRange":
        """Returns the range of the placements of a corpus, of which there is at least one."""
        bounds = np.percentile(np.array(placements, np.float64), FACE_PERCENTILES, axis=0)
        low, high = bounds.round(4).clip(_MIN_BOUND, _MAX_BOUND).tolist()
        return cls(*zip(low, high, strict=True))

    @property
    def middle(self) -> "FaceRange":
        """The middle half of each interval: what is brought into the range shall not lie at its end."""
        return FaceRange(*(_middle_half(interval) for interval in (self.height, self.x, self.y)))

    def contains_height(self, height: float) -> bool:
        """Whether faces of this height are known, within the tolerance."""
        low, high = self.height
        return low * (1 - HEIGHT_TOLERANCE) <= height <= high * (1 + HEIGHT_TOLERANCE)

    def contains_center(self, x: float, y: float) -> bool:
        """Whether faces at this place are known, within the tolerance."""
        return all(
            low - CENTER_TOLERANCE <= value <= high + CENTER_TOLERANCE
            for value, (low, high) in ((x, self.x), (y, self.y))
        )

    def contains(self, placement: FacePlacement) -> bool:
        """Whether faces of this size at this place are known, within the tolerances."""
        return self.contains_height(placement.height) and self.contains_center(placement.x, placement.y)


FaceRanges = Mapping[int, FaceRange]
"""Ranges by the number of people in a clip; numbers that are missing are unknown."""


def fit_face_ranges(placements: Iterable[tuple[int, FacePlacement]]) -> dict[int, FaceRange]:
    """Returns the ranges of clips, each given by its number of people and the placement of its faces."""
    groups: dict[int, list[FacePlacement]] = defaultdict(list)
    for people, placement in placements:
        groups[people].append(placement)
    return {people: FaceRange.fit(groups[people]) for people in sorted(groups)}


def face_ranges_to_dict(ranges: FaceRanges) -> dict[str, Any] | None:
    """Returns the entry of a configuration in JSON; None where nothing is known."""
    entries = {
        str(people): {name: list(bounds) for name, bounds in asdict(found).items()} for people, found in ranges.items()
    }
    return entries or None


def face_ranges_from_dict(values: Any, source: str) -> dict[int, FaceRange]:
    """Returns the ranges of an entry that `face_ranges_to_dict` wrote; None is an empty one.

    Args:
        source: what the entry was read from, for errors.

    Raises:
        InputError: the entry has another form, or its numbers are no increasing fractions.
    """
    if values is None:
        return {}
    names = {field.name for field in fields(FaceRange)}
    is_known_form = isinstance(values, Mapping) and all(
        str(people).isdecimal() and 1 <= len(str(people)) <= 2 and isinstance(one, Mapping) and set(one) == names
        for people, one in values.items()
    )
    if not is_known_form or not all(_is_interval(bounds) for one in values.values() for bounds in one.values()):
        raise InputError(
            f"{source}: face_ranges is {str(values)[:100]}; height, x and y are needed by number of people, each as "
            "[low, high] with 0 < low <= high <= 2: remove the entry or save the model again",
            code=ErrorCode.malformed_file,
            field="face_ranges",
            value=str(values)[:100],
        )
    return {
        int(people): FaceRange(**{name: (float(low), float(high)) for name, (low, high) in one.items()})
        for people, one in values.items()
    }


def save_face_ranges(ranges: FaceRanges, folder: Path) -> None:
    """Writes the ranges of a training run to its folder, atomically."""
    with atomic_write(folder / FACE_RANGES_FILE) as temporary:
        temporary.write_text(json.dumps(face_ranges_to_dict(ranges) or {}, indent=2) + "\n", encoding="utf-8")


def load_face_ranges(folder: Path) -> dict[int, FaceRange]:
    """Reads the ranges in the folder of a training run; runs of earlier releases have none.

    Raises:
        InputError: the file is not such JSON.
    """
    path = folder / FACE_RANGES_FILE
    return face_ranges_from_dict(read_json(path), str(path)) if path.is_file() else {}


def _middle_half(interval: Interval) -> Interval:
    low, high = interval
    return low + (high - low) / 4, high - (high - low) / 4


def _is_interval(bounds: Any) -> bool:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return False
    if any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in bounds):
        return False
    return bool(0 < bounds[0] <= bounds[1] <= _MAX_BOUND)

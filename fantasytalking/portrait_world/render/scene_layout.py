"""Where several people stand in one picture: side by side, from touching to far apart, some nearer than others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.portrait_world.render.camera import MIN_ZOOM, PORTRAIT_HEIGHT_UNITS, Camera
from fantasytalking.portrait_world.render.person_mesh import PersonMesh

TOUCHING_FRACTION = 0.35
"""Part of the neighbours who stand as close as their faces allow."""

RELATIVE_ZOOM_RANGE = (0.84, 1.05)
"""How much larger than the average of the picture somebody is seen."""

LOWERING_RANGE = (0.0, 0.06)
"""How much lower, in picture heights."""

VISIBLE_FACE_HALF_WIDTH = 0.56
"""Half width, in head units, of the part of a face that nobody at rest stands before: both eyes and the mouth."""

EDGE_MARGIN = 0.04
"""Left free beside the outer heads, in picture heights, for their movement."""


@dataclass(frozen=True)
class PersonPlacement:
    """Someone's place: head axis `x` right of the picture's middle and `y` lower than usual, both in picture heights;
    seen `zoom` times larger than in the usual portrait of this height."""

    x: float
    y: float
    zoom: float

    def camera(self, height: int, width: int, shift: tuple[float, float] = (0.0, 0.0)) -> Camera:
        """How a picture of this many pixels sees it, all moved by `shift` (right, down; picture heights)."""
        usual = Camera.portrait(height, width, self.zoom)
        return Camera(
            usual.scale, usual.column + (self.x + shift[0]) * height, usual.row + (self.y + shift[1]) * height
        )


def head_half_width(person: PersonMesh) -> float:
    """Half the width of a resting head with its hair and ears above the mouth, in head units."""
    anatomy = person.anatomy
    mouth = anatomy.head.features.mouth_y
    heads = [anatomy.head.points[anatomy.head.ring < 11], *(shell.hair.points for shell in person.hair)]
    return max(float(np.abs(points[points[:, 1] > mouth, 0]).max()) for points in heads)


def arrange_people(
    half_widths: Sequence[float], aspect: float, zoom: float, random: np.random.Generator
) -> tuple[PersonPlacement, ...]:
    """Draws the places of people from left to right.

    Args:
        half_widths: of each of them, from `head_half_width`.
        aspect: the picture's width over its height.
        zoom: how much larger than in the usual portrait they may be seen; less where the picture is narrow.

    Raises:
        InputError: the picture is too narrow for that many people.
    """
    near = zoom * random.uniform(*RELATIVE_ZOOM_RANGE, len(half_widths))
    least = _min_distances(half_widths, near)
    near *= min(1.0, (aspect - 2 * EDGE_MARGIN) / least.sum())
    if near.min() < MIN_ZOOM:
        raise InputError(
            f"{len(half_widths)} people do not fit into a picture {aspect:.2f} times as wide as high; widen it"
        )
    least = _min_distances(half_widths, near)
    shares = random.exponential(1.0, len(least))
    shares[1:-1] *= random.random(len(least) - 2) >= TOUCHING_FRACTION
    gaps = least + (aspect - 2 * EDGE_MARGIN - least.sum()) * shares / shares.sum()
    places = np.cumsum(gaps)[:-1] + EDGE_MARGIN - aspect / 2
    lower = random.uniform(*LOWERING_RANGE, len(half_widths))
    return tuple(
        PersonPlacement(float(x), float(y), float(size)) for x, y, size in zip(places, lower, near, strict=True)
    )


def _min_distances(half_widths: Sequence[float], zooms: np.ndarray) -> np.ndarray:
    """Least distances (P + 1,) in picture heights: edge to first head, head to head, last head to edge."""
    reach, seen = np.asarray(half_widths) * zooms, VISIBLE_FACE_HALF_WIDTH * zooms
    behind = zooms[:-1] < zooms[1:]
    # The nearer of two hides the other's cheek, not more.
    between = np.where(behind, seen[:-1] + reach[1:], reach[:-1] + seen[1:])
    return np.concatenate([reach[:1], between, reach[-1:]]) / PORTRAIT_HEIGHT_UNITS

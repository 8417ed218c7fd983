"""Random layout of several people in one image: side by side, at varying distances and magnifications."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.portrait_world.render.camera import MIN_ZOOM, PORTRAIT_HEIGHT_UNITS, Camera
from fantasytalking.portrait_world.render.person_mesh import PersonMesh

TOUCHING_FRACTION = 0.35
"""Fraction of neighbors who stand as close as their faces allow."""

RELATIVE_ZOOM_RANGE = (0.84, 1.05)
"""Range of a person's magnification relative to that of the image."""

LOWERING_RANGE = (0.0, 0.06)
"""Range of a person's downward offset, in image heights."""

VISIBLE_FACE_HALF_WIDTH = 0.56
"""Half width, in head units, of the part of a face that others at rest do not cover: both eyes and the mouth."""

EDGE_MARGIN = 0.04
"""Space beside the outermost heads for their motion, in image heights."""


@dataclass(frozen=True)
class PersonPlacement:
    """Position of a person: the head's axis is `x` right of the image's center and `y` below its default position, both
    in image heights; `zoom` is the magnification relative to the default portrait of this height."""

    x: float
    y: float
    zoom: float

    def camera(self, height: int, width: int, shift: tuple[float, float] = (0.0, 0.0)) -> Camera:
        """Returns the person's camera in an image of this size in pixels, translated by `shift` (right, down) in image
        heights."""
        return Camera.portrait(height, width, self.zoom, (self.x + shift[0], self.y + shift[1]))


def head_half_width(person: PersonMesh) -> float:
    """Returns half the width of a resting head with hair and ears above the mouth, in head units."""
    anatomy = person.anatomy
    mouth = anatomy.head.features.mouth_y
    heads = [anatomy.head.points[anatomy.head.ring < 11], *(shell.hair.points for shell in person.hair)]
    return max(float(np.abs(points[points[:, 1] > mouth, 0]).max()) for points in heads)


def arrange_people(
    half_widths: Sequence[float], aspect: float, zoom: float, random: np.random.Generator
) -> tuple[PersonPlacement, ...]:
    """Draws the positions of people from left to right.

    Args:
        half_widths: of each of them, from `head_half_width`.
        aspect: width of the image relative to its height.
        zoom: largest magnification relative to the default portrait; smaller in narrow images.
        random: random generator.

    Raises:
        InputError: the image is too narrow for this number of people.
    """
    zooms = zoom * random.uniform(*RELATIVE_ZOOM_RANGE, len(half_widths))
    min_distances = _min_distances(half_widths, zooms)
    zooms *= min(1.0, (aspect - 2 * EDGE_MARGIN) / min_distances.sum())
    if zooms.min() < MIN_ZOOM:
        raise InputError(
            f"{len(half_widths)} people do not fit into an image of aspect ratio {aspect:.2f}; use a larger width",
            code=ErrorCode.out_of_range,
            field="size",
            value=aspect,
        )
    min_distances = _min_distances(half_widths, zooms)
    weights = random.exponential(1.0, len(min_distances))
    weights[1:-1] *= random.random(len(min_distances) - 2) >= TOUCHING_FRACTION
    gaps = min_distances + (aspect - 2 * EDGE_MARGIN - min_distances.sum()) * weights / weights.sum()
    positions = np.cumsum(gaps)[:-1] + EDGE_MARGIN - aspect / 2
    lowering = random.uniform(*LOWERING_RANGE, len(half_widths))
    return tuple(
        PersonPlacement(float(x), float(y), float(zoom)) for x, y, zoom in zip(positions, lowering, zooms, strict=True)
    )


def _min_distances(half_widths: Sequence[float], zooms: np.ndarray) -> np.ndarray:
    """Returns smallest distances (P + 1,) in image heights: edge to first head, head to head, last head to edge."""
    head, face = np.asarray(half_widths) * zooms, VISIBLE_FACE_HALF_WIDTH * zooms
    is_behind = zooms[:-1] < zooms[1:]
    # The nearer of two people covers at most the other's cheek.
    between = np.where(is_behind, face[:-1] + head[1:], head[:-1] + face[1:])
    return np.concatenate([head[:1], between, head[-1:]]) / PORTRAIT_HEIGHT_UNITS

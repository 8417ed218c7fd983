"""Renders frames: a backdrop and placed people, supersampled for smooth edges."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.render.camera import Camera
from fantasytalking.portrait_world.render.person_mesh import PersonMesh


class PlacedPerson(NamedTuple):
    """A person with its camera on the supersampled canvas. Later people are in front of earlier ones."""

    person: PersonMesh
    camera: Camera


def supersampling_factor(size: int) -> float:
    """Returns the size of the canvas relative to the image."""
    return 2.0 if size <= 256 else 1.5


def render_scene(
    backdrop: FloatArray, people: Sequence[PlacedPerson], states: Sequence[FaceState], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Renders a frame.

    Args:
        backdrop: (H, W, 3) sRGB in [0, 1], the canvas' size; left as it is.
        people: people from back to front.
        states: one state per person.
        size: height and width of the result in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    canvas = backdrop.copy()
    for placed, state in zip(people, states, strict=True):
        placed.person.draw(canvas, placed.camera, state)
    small = cv2.resize(canvas, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)

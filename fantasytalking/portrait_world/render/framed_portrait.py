"""Still portraits of any framing: magnification, place of the person and shape of the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.validation import check_ranges
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL
from fantasytalking.portrait_world.people.identity import Identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import MIN_ZOOM
from fantasytalking.portrait_world.render.person_mesh import PersonMesh
from fantasytalking.portrait_world.render.scene import PlacedPerson, render_scene, supersampling_factor
from fantasytalking.portrait_world.render.scene_layout import PersonPlacement

MAX_PORTRAIT_ZOOM = 2.0


@dataclass
class PortraitFraming:
    """Framing of a still portrait."""

    zoom: float = 1.0
    """Magnification relative to the default portrait, in which the face has about 0.55 of the height."""
    x: float = 0.0
    """Distance of the head from the middle, to the right, in image heights."""
    y: float = 0.0
    """Distance of the head from its default height, downward, in image heights."""
    width: int = 256
    """Width of the picture in pixels."""
    height: int = 256
    """Height of the picture in pixels."""

    def validate(self) -> None:
        """Validates the ranges of all numbers.

        Raises:
            InputError: a number lies outside its range.
        """
        limits = {"zoom": (MIN_ZOOM, MAX_PORTRAIT_ZOOM), "x": (-0.5, 0.5), "y": (-0.3, 0.3)}
        check_ranges(self, limits | dict.fromkeys(("width", "height"), (64, 2048)), "framing.")


def render_framed_portrait(identity: Identity, framing: PortraitFraming) -> NDArray[np.uint8]:
    """Renders a person at rest: (height, width, 3) uint8 RGB."""
    size = (framing.height, framing.width)
    factor = supersampling_factor(max(size))
    height, width = (round(side * factor) for side in size)
    camera = PersonPlacement(framing.x, framing.y, framing.zoom).camera(height, width)
    placed = PlacedPerson(PersonMesh(identity, camera.scale), camera)
    return render_scene(make_backdrop(identity, height, width), (placed,), (NEUTRAL,), size)

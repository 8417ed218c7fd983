"""Renders frames of several people in one image."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.image_ops import sample_bilinear
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.animation import Animation
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import (
    PORTRAIT_HEIGHT_UNITS,
    Camera,
    posture_from_state,
    scale_shifts_for_zoom,
)
from fantasytalking.portrait_world.render.person_mesh import PersonMesh
from fantasytalking.portrait_world.render.scene import PlacedPerson, render_scene, supersampling_factor
from fantasytalking.portrait_world.render.scene_layout import PersonPlacement, arrange_people, head_half_width

MAX_GROUP_PEOPLE = 3
NO_SHIFT = (0.0, 0.0)


class GroupRenderer:
    """Renders people side by side, with the backdrop and light of the first of them.

    Args:
        identities: people from left to right.
        size: width and height of the images in pixels.
        zoom: magnification relative to the default portrait, where the width allows it.
        random: random generator of their positions.
    """

    def __init__(
        self, identities: Sequence[int], size: tuple[int, int], zoom: float, random: np.random.Generator
    ) -> None:
        self.identities = tuple(identities)
        self.width, self.height = size
        self._supersampling = supersampling_factor(self.height)
        self._canvas_size = round(self.height * self._supersampling), round(self.width * self._supersampling)
        host = make_identity(identities[0])
        self._backdrop = make_backdrop(host, *self._canvas_size)
        detail = self._canvas_size[0] / PORTRAIT_HEIGHT_UNITS * zoom
        self.people = tuple(_person_mesh(number, host.light_side, detail) for number in identities)
        reaches = [head_half_width(person) for person in self.people]
        self.placements: tuple[PersonPlacement, ...] = arrange_people(reaches, self.width / self.height, zoom, random)
        self._draw_order = sorted(range(len(self.people)), key=lambda index: self.placements[index].zoom)

    def frame(self, states: Sequence[FaceState], shift: tuple[float, float] = NO_SHIFT) -> NDArray[np.uint8]:
        """Renders one frame: (height, width, 3) uint8 RGB.

        Args:
            states: one state per person, from left to right; shifts of head and shoulders are in image heights.
            shift: translation of the whole image, right and down, in image heights.
        """
        rescaled = self._rescaled_states(states)
        placed = [PlacedPerson(self.people[index], self._camera(index, shift)) for index in self._draw_order]
        return render_scene(
            self._shifted_backdrop(shift),
            placed,
            [rescaled[index] for index in self._draw_order],
            (self.height, self.width),
        )

    def portrait(self) -> NDArray[np.uint8]:
        """Renders everyone at rest: mouth closed, eyes open, looking ahead."""
        return self.frame([NEUTRAL] * len(self.people))

    def frames(self, animations: Sequence[Animation], shifts: FloatArray) -> Iterator[NDArray[np.uint8]]:
        """Yields all frames of animations of equal length; `shifts` (T, 2) translate the image."""
        frame_states = zip(*(animation.states for animation in animations), strict=True)
        for states, (x, y) in zip(frame_states, shifts.tolist(), strict=True):
            yield self.frame(states, (x, y))

    def face_boxes(self, states: Sequence[FaceState], shift: tuple[float, float] = NO_SHIFT) -> FloatArray:
        """Returns boxes (P, 4) around the faces, forehead to chin, ear to ear: left, top, right, bottom in pixels."""
        boxes = []
        for index, (person, state) in enumerate(zip(self.people, self._rescaled_states(states), strict=True)):
            points = posture_from_state(state).transform_points(person.face_points(state))
            pixels = self._camera(index, shift).project(points)[:, :2] / self._supersampling
            boxes.append(np.concatenate([pixels.min(0), pixels.max(0)]))
        return np.stack(boxes)

    def _camera(self, index: int, shift: tuple[float, float]) -> Camera:
        return self.placements[index].camera(*self._canvas_size, shift)

    def _rescaled_states(self, states: Sequence[FaceState]) -> list[FaceState]:
        pairs = zip(states, self.placements, strict=True)
        return [scale_shifts_for_zoom(state, placement.zoom) for state, placement in pairs]

    def _shifted_backdrop(self, shift: tuple[float, float]) -> FloatArray:
        if shift == NO_SHIFT:
            return self._backdrop
        height, width = self._canvas_size
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return sample_bilinear(self._backdrop, columns - shift[0] * height, rows - shift[1] * height)


@lru_cache(maxsize=2 * MAX_GROUP_PEOPLE)
def _person_mesh(number: int, light_side: float, detail: float) -> PersonMesh:
    return PersonMesh(replace(make_identity(number), light_side=light_side), detail)

"""Several people in one picture: who is there, and pictures of them doing things."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fantasytalking.portrait_world.graphics.image_ops import resampled
from fantasytalking.portrait_world.graphics.rasterizer import FloatArray
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.motion.performance import Performance
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import PICTURE_UNITS, Camera, posture_of, seen_closer
from fantasytalking.portrait_world.render.person_mesh import Person
from fantasytalking.portrait_world.render.scene import Place, oversampling, render
from fantasytalking.portrait_world.render.scene_layout import Standing, arrange, reach_of

MOST_PEOPLE = 3
UNMOVED = (0.0, 0.0)


class Group:
    """People side by side before the backdrop, and in the light, of the first of them.

    Args:
        identities: from left to right.
        size: width and height of the pictures in pixels.
        closeness: how much larger than in the usual portrait people are seen, where the width allows.
        random: draws where they stand.
    """

    def __init__(
        self, identities: Sequence[int], size: tuple[int, int], closeness: float, random: np.random.Generator
    ) -> None:
        self.identities = tuple(identities)
        self.width, self.height = size
        self._enlarged = oversampling(self.height)
        self._canvas = round(self.height * self._enlarged), round(self.width * self._enlarged)
        host = make_identity(identities[0])
        self._backdrop = make_backdrop(host, *self._canvas)
        detail = self._canvas[0] / PICTURE_UNITS * closeness
        self.people = tuple(_person(number, host.light_side, detail) for number in identities)
        reaches = [reach_of(person) for person in self.people]
        self.standings: tuple[Standing, ...] = arrange(reaches, self.width / self.height, closeness, random)
        self._from_behind = sorted(range(len(self.people)), key=lambda index: self.standings[index].closeness)

    def frame(self, states: Sequence[FaceState], shift: tuple[float, float] = UNMOVED) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB.

        Args:
            states: one a person, from left to right; shifts of head and shoulders are in picture heights.
            shift: by which the whole picture is moved right and down, in picture heights.
        """
        shown = self._shown(states)
        places = [Place(self.people[index], self._camera(index, shift)) for index in self._from_behind]
        return render(
            self._moved_backdrop(shift),
            places,
            [shown[index] for index in self._from_behind],
            (self.height, self.width),
        )

    def portrait(self) -> NDArray[np.uint8]:
        """Everyone at rest: mouth closed, eyes open, looking ahead."""
        return self.frame([NEUTRAL] * len(self.people))

    def frames(self, performances: Sequence[Performance], shifts: FloatArray) -> Iterator[NDArray[np.uint8]]:
        """Every frame of performances of one length, the picture moved by `shifts` (T, 2)."""
        together = zip(*(performance.states for performance in performances), strict=True)
        for states, (x, y) in zip(together, shifts.tolist(), strict=True):
            yield self.frame(states, (x, y))

    def boxes(self, states: Sequence[FaceState], shift: tuple[float, float] = UNMOVED) -> FloatArray:
        """Boxes (P, 4) around the faces, forehead to chin and ear to ear: left, top, right, bottom in pixels."""
        boxes = []
        for index, (person, state) in enumerate(zip(self.people, self._shown(states), strict=True)):
            points = posture_of(state).move(person.face_points(state))
            places = self._camera(index, shift).project(points)[:, :2] / self._enlarged
            boxes.append(np.concatenate([places.min(0), places.max(0)]))
        return np.stack(boxes)

    def _camera(self, index: int, shift: tuple[float, float]) -> Camera:
        return self.standings[index].camera(*self._canvas, shift)

    def _shown(self, states: Sequence[FaceState]) -> list[FaceState]:
        pairs = zip(states, self.standings, strict=True)
        return [seen_closer(state, standing.closeness) for state, standing in pairs]

    def _moved_backdrop(self, shift: tuple[float, float]) -> FloatArray:
        if shift == UNMOVED:
            return self._backdrop
        height, width = self._canvas
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        return resampled(self._backdrop, columns - shift[0] * height, rows - shift[1] * height)


@lru_cache(maxsize=2 * MOST_PEOPLE)
def _person(number: int, light_side: float, detail: float) -> Person:
    return Person(replace(make_identity(number), light_side=light_side), detail)

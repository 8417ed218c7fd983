"""Tests of rendered frames."""

import numpy as np
import pytest

from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.backdrop import make_backdrop
from fantasytalking.portrait_world.render.camera import PORTRAIT_HEIGHT_UNITS, ZOOM_FIXPOINT_Y, Camera
from fantasytalking.portrait_world.render.person_mesh import PersonMesh
from fantasytalking.portrait_world.render.scene import PlacedPerson, render_scene

SIZE = 128


@pytest.fixture(scope="module")
def renderer() -> PortraitRenderer:
    return PortraitRenderer(make_identity(11), SIZE)


def region(renderer: PortraitRenderer, x: float, y: float, half: int = 4) -> tuple[slice, slice]:
    """Returns the pixels around a position of the resting face in head units."""
    column, row, _ = Camera.portrait(SIZE, SIZE).project(np.array([[x, y, 0.8]], np.float32))[0]
    return slice(int(row) - half, int(row) + half), slice(int(column) - half, int(column) + half)


def change(renderer: PortraitRenderer, state: FaceState, where: tuple[slice, slice]) -> float:
    return float(np.abs(renderer.frame(state)[where].astype(int) - renderer.portrait()[where].astype(int)).mean())


def test_rendering_a_frame_is_reproducible(renderer: PortraitRenderer) -> None:
    frame = renderer.frame(FaceState(mouth_open=0.4, yaw=0.2))
    assert frame.shape == (SIZE, SIZE, 3)
    assert frame.dtype == np.uint8
    assert np.array_equal(frame, PortraitRenderer(make_identity(11), SIZE).frame(FaceState(mouth_open=0.4, yaw=0.2)))


def test_an_open_mouth_is_dark_and_grows(renderer: PortraitRenderer) -> None:
    f = renderer.person.anatomy.head.features
    where = region(renderer, 0, f.mouth_y - 0.05, 5)
    dark = [
        int((renderer.frame(FaceState(mouth_open=value))[where].max(-1) < 80).sum()) for value in (0, 0.3, 0.6, 0.9)
    ]
    assert dark == sorted(dark)
    assert dark[-1] > dark[0] + 20


def test_each_parameter_changes_its_region(renderer: PortraitRenderer) -> None:
    f = renderer.person.anatomy.head.features
    eye, mouth = region(renderer, f.eye_x, f.eye_y), region(renderer, 0, f.mouth_y - 0.04)
    assert change(renderer, FaceState(blink=1.0), eye) > 8
    assert change(renderer, FaceState(blink=1.0), mouth) < 0.5
    assert change(renderer, FaceState(gaze_x=1.0), eye) > 3
    assert change(renderer, FaceState(mouth_open=0.6), mouth) > 8
    assert change(renderer, FaceState(mouth_open=0.6), eye) < 0.5
    assert change(renderer, FaceState(yaw=0.3), mouth) > 3


def test_shifts_are_in_image_heights(renderer: PortraitRenderer) -> None:
    plain, shifted = renderer.portrait().astype(float), renderer.frame(FaceState(x=8 / SIZE)).astype(float)
    face = slice(SIZE // 4, SIZE // 2)
    moved = {by: np.abs(np.roll(plain, by, 1)[face, 40:88] - shifted[face, 40:88]).mean() for by in range(4, 13)}
    # The face lies nearer than the head's middle, so that perspective carries it a little further.
    assert min(moved, key=lambda by: moved[by]) in (8, 9)


def test_zoom_magnifies_and_keeps_relative_shifts() -> None:
    near = PortraitRenderer(make_identity(11), SIZE, zoom=1.25)
    usual = Camera.portrait(SIZE, SIZE)
    camera = Camera.portrait(SIZE, SIZE, 1.25)
    chin_and_brow = np.array([[0, -0.6, 0], [0, 0.4, 0], [0, ZOOM_FIXPOINT_Y, 0]], np.float32)
    before, after = usual.project(chin_and_brow)[:, 1], camera.project(chin_and_brow)[:, 1]
    assert after[0] - after[1] == pytest.approx(1.25 * (before[0] - before[1]), rel=1e-4)
    assert after[2] == pytest.approx(before[2], abs=1e-3), "what is approached stays in its place"

    plain, shifted = near.portrait().astype(float), near.frame(FaceState(x=8 / SIZE)).astype(float)
    face = slice(SIZE // 4, SIZE // 2)
    moved = {by: np.abs(np.roll(plain, by, 1)[face, 40:88] - shifted[face, 40:88]).mean() for by in range(4, 13)}
    assert min(moved, key=lambda by: moved[by]) in (8, 9)


def test_two_people_share_an_image() -> None:
    height, width = 96, 192
    canvas = make_backdrop(make_identity(3), height, width)
    places = []
    for number, column in ((1, 0.28), (4, 0.72)):
        scale = height / PORTRAIT_HEIGHT_UNITS * 0.8
        places.append(
            PlacedPerson(PersonMesh(make_identity(number), scale), Camera(scale, column * width, 0.5 * height))
        )
    together = render_scene(canvas, places, (NEUTRAL, NEUTRAL), (height, width))
    left_speaks = render_scene(canvas, places, (FaceState(mouth_open=0.8), NEUTRAL), (height, width))
    assert not np.array_equal(together[:, : width // 2], left_speaks[:, : width // 2])
    assert np.array_equal(together[:, width // 2 :], left_speaks[:, width // 2 :])
    empty = render_scene(canvas, (), (), (height, width))
    assert np.abs(together.astype(int) - empty).mean() > 10

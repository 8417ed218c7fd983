"""Scenes rendered by the portrait world, with known motion."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.perception.face_track import FaceTrack, track_faces
from tests.helpers.shared_folder import shared_folder

pytest.importorskip("mediapipe")

FPS = 20
COUNT = 40
SIZE = 128


@dataclass(frozen=True)
class DrawnScene:
    """Rendered frames and their ground truth."""

    frames: np.ndarray
    """(T, H, W, 3) uint8."""
    times: np.ndarray
    mouth: np.ndarray
    """(T,) true mouth opening."""
    yaw: np.ndarray
    """(T,) true yaw, radians."""


def draw_scene(identity: int, *, talking: bool, count: int = COUNT) -> DrawnScene:
    from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
    from fantasytalking.portrait_world.motion.frame_state import FaceState
    from fantasytalking.portrait_world.people.identity import make_identity

    times = np.arange(count) / FPS
    mouth = (0.45 - 0.45 * np.cos(2 * np.pi * 2.5 * times)) if talking else np.zeros(count)
    yaw = 0.2 * np.sin(2 * np.pi * 0.7 * times)
    sitter = PortraitRenderer(make_identity(identity), SIZE)
    states = [FaceState(mouth_open=float(m), yaw=float(y), roll=float(y) / 2) for m, y in zip(mouth, yaw, strict=True)]
    return DrawnScene(np.stack([sitter.frame(state) for state in states]), times, mouth, yaw)


def shared_scene(factory: pytest.TempPathFactory, name: str, identity: int, *, talking: bool) -> DrawnScene:
    """The scene of `draw_scene`, drawn once in a run of tests."""

    def write(folder: Path) -> None:
        np.savez(folder / "scene.npz", **vars(draw_scene(identity, talking=talking)))

    with np.load(shared_folder(factory, name, write) / "scene.npz") as values:
        return DrawnScene(**values)


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> DrawnScene:
    return shared_scene(tmp_path_factory, "talker", 3, talking=True)


@pytest.fixture(scope="session")
def listener(tmp_path_factory: pytest.TempPathFactory) -> DrawnScene:
    return shared_scene(tmp_path_factory, "listener", 8, talking=False)


@pytest.fixture(scope="session")
def track(talker: DrawnScene) -> FaceTrack:
    (found,) = track_faces(talker.frames, talker.times)
    return found

"""Scenes rendered by the portrait world, with known motion."""

from dataclasses import dataclass

import numpy as np
import pytest

from fantasytalking.perception.face_track import FaceTrack, track_faces

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


@pytest.fixture(scope="session")
def talker() -> DrawnScene:
    return draw_scene(3, talking=True)


@pytest.fixture(scope="session")
def listener() -> DrawnScene:
    return draw_scene(8, talking=False)


@pytest.fixture(scope="session")
def track(talker: DrawnScene) -> FaceTrack:
    (found,) = track_faces(talker.frames, talker.times)
    return found

"""Single pictures of many people in many poses, with the face as ArcFace's alignment cuts it out."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fantasytalking.common.files import atomic_write
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity

POSE_DEVIATIONS = {"yaw": 0.16, "pitch": 0.075, "roll": 0.07, "x": 0.018, "y": 0.009}
"""Of head poses: radians and picture heights, as in the liveliest videos."""


@dataclass(frozen=True)
class PortraitImages:
    """Pictures of people, all of one person together."""

    images: NDArray[np.uint8]
    """(N, size, size, 3) RGB."""
    faces: NDArray[np.uint8]
    """(N, 112, 112, 3) RGB, turned and scaled by insightface's norm_crop."""
    identities: NDArray[np.int64]
    """(N,) the identity's number."""

    @property
    def unique_identities(self) -> NDArray[np.int64]:
        """The people, each once."""
        return np.unique(self.identities)


def render_missing_portraits(
    identities: range, poses: int, size: int, folder: Path, seed: int, processes: int, zoom: float = 1.0
) -> Iterator[int]:
    """Draws everyone in `identities` who is not in `folder` yet; yields how many are."""
    work = partial(_render_person, poses=poses, size=size, folder=folder, seed=seed, zoom=zoom)
    return run_for_missing(identities, folder, work, processes)


def run_for_missing(identities: range, folder: Path, function: Callable[[int], None], processes: int) -> Iterator[int]:
    """Has `function` done for everyone in `identities` of whom `folder` has no file yet; yields how many are done."""
    missing = [number for number in identities if not (folder / f"{number}.safetensors").is_file()]
    done = len(identities) - len(missing)
    yield done
    if processes == 1:
        for number in missing:
            function(number)
            done += 1
            yield done
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(function, missing):
            done += 1
            yield done


def load_portrait_images(identities: range, folder: Path) -> PortraitImages:
    """What `render_missing_portraits` drew."""
    files = [load_file(folder / f"{number}.safetensors") for number in identities]
    counts = [len(file["faces"]) for file in files]
    return PortraitImages(
        np.concatenate([file["pictures"].numpy() for file in files]),
        np.concatenate([file["faces"].numpy() for file in files]),
        np.repeat(np.array(identities, dtype=np.int64), counts),
    )


def random_face_state(random: np.random.Generator) -> FaceState:
    """Any expression and pose that the videos may show."""
    moved = {name: float(np.clip(random.normal(), -2.2, 2.2)) * spread for name, spread in POSE_DEVIATIONS.items()}
    return FaceState(
        mouth_open=float(max(0.0, random.normal(0.2, 0.25)) % 1.0),
        mouth_width=float(random.uniform(-0.8, 0.8)),
        smile=float(np.clip(random.normal(0.15, 0.3), -0.25, 1)),
        blink=float(random.random() < 0.1) * float(random.random()),
        brow=float(np.clip(random.normal(0, 0.35), -0.8, 1)),
        frown=float(np.clip(random.normal(0, 0.3), 0, 1)),
        gaze_x=float(random.uniform(-0.6, 0.6)),
        gaze_y=float(random.uniform(-0.4, 0.4)),
        **moved,
    )


def _render_person(number: int, poses: int, size: int, folder: Path, seed: int, zoom: float) -> None:
    """The portrait at rest and `poses` - 1 others; those in which no face is found are left out."""
    import cv2

    cv2.setNumThreads(1)
    random = np.random.default_rng([seed, number, 5])
    sitter = PortraitRenderer(make_identity(number), size, zoom)
    states = [NEUTRAL, *(random_face_state(random) for _ in range(poses - 1))]
    pictures = [sitter.frame(state) for state in states]
    found = [
        (picture, face) for picture, face in zip(pictures, _aligned_faces(pictures), strict=True) if face is not None
    ]
    assert found, f"no picture of person {number} shows a face"
    tensors = {
        "pictures": torch.from_numpy(np.stack([picture for picture, _ in found])),
        "faces": torch.from_numpy(np.stack([face for _, face in found])),
    }
    with atomic_write(folder / f"{number}.safetensors") as temporary:
        save_file(tensors, temporary)


def _aligned_faces(images: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8] | None]:
    """The face of each picture as the encoder will see it; None where none is found."""
    from fantasytalking.encoders.arcface import FaceEncoder
    from fantasytalking.perception.face_crop import five_points

    encoder = FaceEncoder(None)
    for picture, landmarks in zip(images, find_face_landmarks(images), strict=True):
        yield None if landmarks is None else encoder.align(picture, five_points(landmarks))


def find_face_landmarks(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32] | None]:
    """(478, 3) landmarks of the largest face of each picture, in pixels; None where none is found."""
    from fantasytalking.perception.face_detection import FaceDetector, find_landmarks
    from fantasytalking.perception.mediapipe_graphs import create_face_mesh

    detector, mesh = FaceDetector(), create_face_mesh(static=True)
    for picture in images:
        boxes = detector.detect(picture)
        yield find_landmarks(mesh, picture, boxes[0]) if boxes else None
    detector.close()
    mesh.close()

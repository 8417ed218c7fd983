"""Rendered images of many people and poses, with the face crops of ArcFace's alignment."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fantasytalking.common.files import atomic_write
from fantasytalking.common.worker_processes import worker_pool
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity

POSE_DEVIATIONS = {"yaw": 0.16, "pitch": 0.075, "roll": 0.07, "x": 0.018, "y": 0.009}
"""Standard deviations of head poses in radians and image heights, as in videos with the strongest motion."""


@dataclass(frozen=True)
class PortraitImages:
    """Images grouped by person."""

    images: NDArray[np.uint8]
    """(N, size, size, 3) uint8 RGB."""
    faces: NDArray[np.uint8]
    """(N, 112, 112, 3) uint8 RGB, aligned by insightface's norm_crop."""
    identities: NDArray[np.int64]
    """(N,) identity numbers."""

    @property
    def unique_identities(self) -> NDArray[np.int64]:
        """Sorted identity numbers without repetition."""
        return np.unique(self.identities)


def render_missing_portraits(
    identities: range, poses: int, size: int, folder: Path, seed: int, processes: int, zoom: float = 1.0
) -> Iterator[int]:
    """Renders everyone in `identities` who is missing in `folder`; yields the number of finished identities."""
    work = partial(_render_person, poses=poses, size=size, folder=folder, seed=seed, zoom=zoom)
    return run_for_missing(identities, folder, work, processes)


def run_for_missing(identities: range, folder: Path, function: Callable[[int], None], processes: int) -> Iterator[int]:
    """Calls `function` for every identity without a file in `folder`; yields the number of finished identities."""
    missing = [number for number in identities if not (folder / f"{number}.safetensors").is_file()]
    done = len(identities) - len(missing)
    yield done
    if processes == 1:
        for number in missing:
            function(number)
            done += 1
            yield done
        return
    with worker_pool(processes, __name__) as pool:
        for _ in pool.map(function, missing):
            done += 1
            yield done


def load_portrait_images(identities: range, folder: Path) -> PortraitImages:
    """Loads the images of `render_missing_portraits`."""
    files = [load_file(folder / f"{number}.safetensors") for number in identities]
    counts = [len(file["faces"]) for file in files]
    return PortraitImages(
        np.concatenate([file["pictures"].numpy() for file in files]),
        np.concatenate([file["faces"].numpy() for file in files]),
        np.repeat(np.array(identities, dtype=np.int64), counts),
    )


def random_face_state(random: np.random.Generator) -> FaceState:
    """Draws a random expression and pose from the range that the videos show."""
    pose = {name: float(np.clip(random.normal(), -2.2, 2.2)) * spread for name, spread in POSE_DEVIATIONS.items()}
    return FaceState(
        mouth_open=float(max(0.0, random.normal(0.2, 0.25)) % 1.0),
        mouth_width=float(random.uniform(-0.8, 0.8)),
        smile=float(np.clip(random.normal(0.15, 0.3), -0.25, 1)),
        blink=float(random.random() < 0.1) * float(random.random()),
        brow=float(np.clip(random.normal(0, 0.35), -0.8, 1)),
        frown=float(np.clip(random.normal(0, 0.3), 0, 1)),
        gaze_x=float(random.uniform(-0.6, 0.6)),
        gaze_y=float(random.uniform(-0.4, 0.4)),
        **pose,
    )


def _render_person(number: int, poses: int, size: int, folder: Path, seed: int, zoom: float) -> None:
    """Renders a person at rest and in `poses` - 1 poses; images in which no face is detected are skipped."""
    import cv2

    cv2.setNumThreads(1)
    random = np.random.default_rng([seed, number, 5])
    renderer = PortraitRenderer(make_identity(number), size, zoom)
    states = [NEUTRAL, *(random_face_state(random) for _ in range(poses - 1))]
    images = [renderer.frame(state) for state in states]
    kept = [(image, face) for image, face in zip(images, _aligned_faces(images), strict=True) if face is not None]
    assert kept, f"no face is detected in any image of identity {number}"
    tensors = {
        "pictures": torch.from_numpy(np.stack([image for image, _ in kept])),
        "faces": torch.from_numpy(np.stack([face for _, face in kept])),
    }
    with atomic_write(folder / f"{number}.safetensors") as temporary:
        save_file(tensors, temporary)


def _aligned_faces(images: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8] | None]:
    """Yields the aligned face of each image, None where no face is detected."""
    from fantasytalking.encoders.arcface import FaceEncoder
    from fantasytalking.perception.face_crop import five_points

    encoder = FaceEncoder(None)
    for image, landmarks in zip(images, find_face_landmarks(images), strict=True):
        yield None if landmarks is None else encoder.align(image, five_points(landmarks))


def find_face_landmarks(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32] | None]:
    """Yields landmarks (478, 3) in pixels of the largest face of each image, None where no face is detected."""
    from fantasytalking.perception.face_detection import FaceDetector, find_landmarks
    from fantasytalking.perception.mediapipe_graphs import create_face_mesh

    detector, mesh = FaceDetector(), create_face_mesh(static=True)
    for image in images:
        boxes = detector.detect(image)
        yield find_landmarks(mesh, image, boxes[0]) if boxes else None
    detector.close()
    mesh.close()

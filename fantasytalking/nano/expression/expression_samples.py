"""Rendered images with exact expression parameters, for training the expression encoder and the expression reader.

Pairs of people have the same expressions, so that expression can be separated from identity.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fantasytalking.common.files import atomic_write
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS
from fantasytalking.nano.corpora.portrait_images import find_face_landmarks, random_face_state, run_for_missing
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity

EXPRESSION_TARGETS = {
    "head": ("yaw", "pitch", "roll", "x", "y"),
    "eye": ("blink", "gaze_x", "gaze_y", "squint"),
    "emotion": ("brow", "smile", "frown"),
    "mouth": ("mouth_open", "mouth_width", "lip_press", "lip_tuck", "tongue"),
}
"""Fields of `FaceState` that the features of each part must encode."""
assert tuple(name for names in EXPRESSION_TARGETS.values() for name in names) == EXPRESSION_PARAMETERS
PEOPLE_PER_POSE_SET = 2
"""Number of consecutive identities that share a set of expressions."""


@dataclass(frozen=True)
class ExpressionSamples:
    """Images grouped by person; the first image of each person is at rest."""

    images: NDArray[np.uint8]
    """(N, size, size, 3) RGB."""
    landmarks: NDArray[np.float32]
    """(N, 478, 3) face landmarks in pixels."""
    targets: NDArray[np.float32]
    """(N, 17) expression parameters in the order of `EXPRESSION_PARAMETERS`."""
    identities: NDArray[np.int64]
    """(N,) identity numbers."""
    pose_ids: NDArray[np.int64]
    """(N,) numbers of the expressions; equal for two people with the same expression."""

    @property
    def rest_indices(self) -> NDArray[np.int64]:
        """(N,) indices of the same person's image at rest."""
        _, first, person = np.unique(self.identities, return_index=True, return_inverse=True)
        indices: NDArray[np.int64] = first[person]
        return indices


def render_expression_samples(
    identities: range, poses: int, size: int, folder: Path, seed: int, processes: int, zoom: float = 1.0
) -> Iterator[int]:
    """Renders everyone in `identities` who is missing in `folder`; yields the number of finished identities."""
    work = partial(_render_person, poses=poses, size=size, folder=folder, seed=seed, zoom=zoom)
    return run_for_missing(identities, folder, work, processes)


def load_expression_samples(identities: range, folder: Path) -> ExpressionSamples:
    """Loads the images of `render_expression_samples`."""
    files = [load_file(folder / f"{number}.safetensors") for number in identities]

    def joined(name: str) -> NDArray[np.generic]:
        return np.concatenate([file[name].numpy() for file in files])

    counts = [len(file["poses"]) for file in files]
    return ExpressionSamples(
        images=joined("pictures").astype(np.uint8, copy=False),
        landmarks=joined("landmarks").astype(np.float32, copy=False),
        targets=joined("truths").astype(np.float32, copy=False),
        identities=np.repeat(np.array(identities, dtype=np.int64), counts),
        pose_ids=joined("poses").astype(np.int64, copy=False),
    )


def random_expression(random: np.random.Generator) -> FaceState:
    """Draws a random expression: as in the videos, with rare expressions more often."""
    state, closed = random_face_state(random), random.random() < 0.3
    values = random.uniform(0, 1, 5)
    return replace(
        state,
        mouth_open=0.0 if closed else state.mouth_open,
        lip_press=float(values[0]) if closed else 0.0,
        lip_tuck=float(values[1]) if random.random() < 0.3 else 0.0,
        tongue=0.0 if closed or random.random() < 0.5 else float(values[2]),
        blink=float(values[3]) if random.random() < 0.3 else 0.0,
        squint=float(values[4]) if random.random() < 0.4 else 0.0,
    )


def _render_person(number: int, poses: int, size: int, folder: Path, seed: int, zoom: float) -> None:
    """Renders a person at rest and with `poses` - 1 expressions; images in which no face is detected are skipped."""
    import cv2

    cv2.setNumThreads(1)
    group = number // PEOPLE_PER_POSE_SET
    random = np.random.default_rng([seed, group, 11])
    states = [NEUTRAL, *(random_expression(random) for _ in range(poses - 1))]
    renderer = PortraitRenderer(make_identity(number), size, zoom)
    images = [renderer.frame(state) for state in states]
    landmarks = list(find_face_landmarks(images))
    kept = [index for index, points in enumerate(landmarks) if points is not None]
    assert kept and kept[0] == 0, f"no face is detected in the image of identity {number} at rest"
    targets = np.array([[getattr(states[index], name) for name in EXPRESSION_PARAMETERS] for index in kept], np.float32)
    tensors = {
        "pictures": torch.from_numpy(np.stack([images[index] for index in kept])),
        "landmarks": torch.from_numpy(np.stack([points for points in landmarks if points is not None])),
        "truths": torch.from_numpy(targets),
        "poses": torch.tensor(kept) + group * poses,
    }
    with atomic_write(folder / f"{number}.safetensors") as temporary:
        save_file(tensors, temporary)

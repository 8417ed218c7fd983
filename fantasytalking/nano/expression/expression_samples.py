"""Single pictures of people whose expression is known to the last detail, for encoder and reader of expressions.

Groups of people make the same faces, so that what a face does can be told from whose it is.
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
"""What each part of the expression tells, by the names of `FaceState`."""
assert tuple(name for names in EXPRESSION_TARGETS.values() for name in names) == EXPRESSION_PARAMETERS
PEOPLE_PER_POSE_SET = 2
"""People, one after the other, who make the same faces."""


@dataclass(frozen=True)
class ExpressionSamples:
    """Pictures of people, all of one person together, the first of each at rest."""

    images: NDArray[np.uint8]
    """(N, size, size, 3) RGB."""
    landmarks: NDArray[np.float32]
    """(N, 478, 3) pixels."""
    targets: NDArray[np.float32]
    """(N, 17) in the order of `NAMES`."""
    identities: NDArray[np.int64]
    """(N,) the identity's number."""
    pose_ids: NDArray[np.int64]
    """(N,) equal where two people make the same face."""

    @property
    def rest_indices(self) -> NDArray[np.int64]:
        """(N,) the number of the same person's picture at rest."""
        _, first, person = np.unique(self.identities, return_index=True, return_inverse=True)
        found: NDArray[np.int64] = first[person]
        return found


def render_expression_samples(
    identities: range, poses: int, size: int, folder: Path, seed: int, processes: int, zoom: float = 1.0
) -> Iterator[int]:
    """Draws everyone in `identities` who is not in `folder` yet; yields how many are."""
    work = partial(_render_person, poses=poses, size=size, folder=folder, seed=seed, zoom=zoom)
    return run_for_missing(identities, folder, work, processes)


def load_expression_samples(identities: range, folder: Path) -> ExpressionSamples:
    """What `render_expression_samples` drew."""
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
    """Any face that the world can make: as in the videos, with more of what they show rarely."""
    state, closed = random_face_state(random), random.random() < 0.3
    drawn = random.uniform(0, 1, 5)
    return replace(
        state,
        mouth_open=0.0 if closed else state.mouth_open,
        lip_press=float(drawn[0]) if closed else 0.0,
        lip_tuck=float(drawn[1]) if random.random() < 0.3 else 0.0,
        tongue=0.0 if closed or random.random() < 0.5 else float(drawn[2]),
        blink=float(drawn[3]) if random.random() < 0.3 else 0.0,
        squint=float(drawn[4]) if random.random() < 0.4 else 0.0,
    )


def _render_person(number: int, poses: int, size: int, folder: Path, seed: int, zoom: float) -> None:
    """The person at rest and with `poses` - 1 other faces; those in which no face is found are left out."""
    import cv2

    cv2.setNumThreads(1)
    group = number // PEOPLE_PER_POSE_SET
    random = np.random.default_rng([seed, group, 11])
    states = [NEUTRAL, *(random_expression(random) for _ in range(poses - 1))]
    sitter = PortraitRenderer(make_identity(number), size, zoom)
    pictures = [sitter.frame(state) for state in states]
    landmarks = list(find_face_landmarks(pictures))
    kept = [place for place, found in enumerate(landmarks) if found is not None]
    assert kept and kept[0] == 0, f"person {number} shows no face at rest"
    truths = np.array([[getattr(states[place], name) for name in EXPRESSION_PARAMETERS] for place in kept], np.float32)
    tensors = {
        "pictures": torch.from_numpy(np.stack([pictures[place] for place in kept])),
        "landmarks": torch.from_numpy(np.stack([found for found in landmarks if found is not None])),
        "truths": torch.from_numpy(truths),
        "poses": torch.tensor(kept) + group * poses,
    }
    with atomic_write(folder / f"{number}.safetensors") as temporary:
        save_file(tensors, temporary)

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

from fantasytalking.common.files import written_whole
from fantasytalking.nano.corpora.portrait_images import draw_missing, find_faces, random_state
from fantasytalking.perception.expression_reader import NAMES
from fantasytalking.portrait_world.corpus.rendered_clip import Sitter
from fantasytalking.portrait_world.motion.frame_state import NEUTRAL, FaceState
from fantasytalking.portrait_world.people.identity import make_identity

TRUTHS = {
    "head": ("yaw", "pitch", "roll", "x", "y"),
    "eye": ("blink", "gaze_x", "gaze_y", "squint"),
    "emotion": ("brow", "smile", "frown"),
    "mouth": ("mouth_open", "mouth_width", "lip_press", "lip_tuck", "tongue"),
}
"""What each part of the expression tells, by the names of `FaceState`."""
assert tuple(name for names in TRUTHS.values() for name in names) == NAMES
GROUP = 2
"""People, one after the other, who make the same faces."""


@dataclass(frozen=True)
class ExpressionSamples:
    """Pictures of people, all of one person together, the first of each at rest."""

    pictures: NDArray[np.uint8]
    """(N, size, size, 3) RGB."""
    landmarks: NDArray[np.float32]
    """(N, 478, 3) pixels."""
    truths: NDArray[np.float32]
    """(N, 17) in the order of `NAMES`."""
    people: NDArray[np.int64]
    """(N,) the identity's number."""
    poses: NDArray[np.int64]
    """(N,) equal where two people make the same face."""

    @property
    def rests(self) -> NDArray[np.int64]:
        """(N,) the number of the same person's picture at rest."""
        _, first, person = np.unique(self.people, return_index=True, return_inverse=True)
        found: NDArray[np.int64] = first[person]
        return found


def collect_expressions(
    people: range, poses: int, size: int, folder: Path, seed: int, processes: int, closeness: float = 1.0
) -> Iterator[int]:
    """Draws everyone in `people` who is not in `folder` yet; yields how many are."""
    work = partial(_draw_person, poses=poses, size=size, folder=folder, seed=seed, closeness=closeness)
    return draw_missing(people, folder, work, processes)


def load_expressions(people: range, folder: Path) -> ExpressionSamples:
    """What `collect_expressions` drew."""
    files = [load_file(folder / f"{number}.safetensors") for number in people]

    def joined(name: str) -> NDArray[np.generic]:
        return np.concatenate([file[name].numpy() for file in files])

    counts = [len(file["poses"]) for file in files]
    return ExpressionSamples(
        pictures=joined("pictures").astype(np.uint8, copy=False),
        landmarks=joined("landmarks").astype(np.float32, copy=False),
        truths=joined("truths").astype(np.float32, copy=False),
        people=np.repeat(np.array(people, dtype=np.int64), counts),
        poses=joined("poses").astype(np.int64, copy=False),
    )


def random_expression(random: np.random.Generator) -> FaceState:
    """Any face that the world can make: as in the videos, with more of what they show rarely."""
    state, closed = random_state(random), random.random() < 0.3
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


def _draw_person(number: int, poses: int, size: int, folder: Path, seed: int, closeness: float) -> None:
    """The person at rest and with `poses` - 1 other faces; those in which no face is found are left out."""
    import cv2

    cv2.setNumThreads(1)
    group = number // GROUP
    random = np.random.default_rng([seed, group, 11])
    states = [NEUTRAL, *(random_expression(random) for _ in range(poses - 1))]
    sitter = Sitter(make_identity(number), size, closeness)
    pictures = [sitter.frame(state) for state in states]
    landmarks = list(find_faces(pictures))
    kept = [place for place, found in enumerate(landmarks) if found is not None]
    assert kept and kept[0] == 0, f"person {number} shows no face at rest"
    truths = np.array([[getattr(states[place], name) for name in NAMES] for place in kept], np.float32)
    tensors = {
        "pictures": torch.from_numpy(np.stack([pictures[place] for place in kept])),
        "landmarks": torch.from_numpy(np.stack([found for found in landmarks if found is not None])),
        "truths": torch.from_numpy(truths),
        "poses": torch.tensor(kept) + group * poses,
    }
    with written_whole(folder / f"{number}.safetensors") as temporary:
        save_file(tensors, temporary)

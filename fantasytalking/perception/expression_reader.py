"""What a face does, read from MediaPipe's landmarks by one linear map: a reader for evaluation.

It shares nothing with the encoders of expressions that drive a video: landmarks in place of pixels, and it is fitted to
other people and other faces (fantasytalking/nano).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fantasytalking.common.files import existing_file, written_whole
from fantasytalking.common.tensor_io import check_floating, compare_shapes, open_safetensors
from fantasytalking.encoders.face_alignment import find_similarity
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.landmark_measures import eye_opening, mouth_opening, mouth_width
from fantasytalking.perception.mediapipe_graphs import FACE_LANDMARKS

NAMES = (
    *("yaw", "pitch", "roll", "x", "y"),
    *("blink", "gaze_x", "gaze_y", "squint"),
    *("brow", "smile", "frown"),
    *("mouth_open", "mouth_width", "lip_press", "lip_tuck", "tongue"),
)
"""What is read, by the names and in the units of the portrait world's `FaceState`."""
_VALUES = 2 * FACE_LANDMARKS + 8


class LinearMap(NamedTuple):
    """x -> (x - mean) weights + offset."""

    mean: NDArray[np.float64]
    """(F,)."""
    weights: NDArray[np.float64]
    """(F, K)."""
    offset: NDArray[np.float64]
    """(K,)."""

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, F) to (N, K)."""
        result: NDArray[np.float64] = (features - self.mean) @ self.weights + self.offset
        return result


@dataclass(frozen=True)
class ExpressionReader:
    """Landmarks of a video to what the face does in it."""

    map: LinearMap

    def read(self, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
        """What a face does, counted from what it did in the first frame that shows it.

        Args:
            landmarks: (T, 478, 3) pixels, NaN where there is no face.

        Returns:
            (T, 17) changes of what `NAMES` tells, NaN where there is no face: correlations with the truth mean
            something, values only where the first frame is at rest.
        """
        seen = np.isfinite(landmarks).all(axis=(1, 2))
        found = np.full((len(landmarks), len(NAMES)), np.nan)
        if seen.any():
            values = reading_values(landmarks[seen])
            found[seen] = self.map(values - values[0])
        return found

    def save(self, path: Path) -> None:
        """Writes the reader as one safetensors file, whole or not at all."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.map._asdict().items()}
        with written_whole(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: str | Path) -> "ExpressionReader":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        stored = open_safetensors(existing_file(path, "expression reader"))
        wanted = {"mean": (_VALUES,), "weights": (_VALUES, len(NAMES)), "offset": (len(NAMES),)}
        compare_shapes(stored.shapes, wanted, f"expression reader '{path}'", "fit it again")
        tensors = {name: stored.read(name) for name in wanted}
        check_floating(tensors, str(path))
        return cls(LinearMap(**{name: tensor.double().numpy() for name, tensor in tensors.items()}))


def reading_values(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T, 478, 3) landmarks to (T, 964): their places in the upright face, openings, and where the face is."""
    places = find_similarity(five_points(landmarks))
    plane = landmarks[..., 0] + 1j * landmarks[..., 1].astype(np.float64)
    upright = (plane - places.shift[:, None]) / places.turn[:, None]
    size = np.abs(places.turn)
    measures = [mouth_opening(landmarks), mouth_width(landmarks), *eye_opening(landmarks).T]
    # Head movements in sizes of the face, which hardly varies within a video.
    whole = [np.angle(places.turn), np.log(size), places.centre.real / size, places.centre.imag / size]
    return np.concatenate([upright.real, upright.imag, np.stack([*measures, *whole], axis=1)], axis=1)

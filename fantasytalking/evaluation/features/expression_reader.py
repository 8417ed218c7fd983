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

from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors
from fantasytalking.encoders.face_alignment import estimate_similarity
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.landmark_measures import eye_opening, mouth_opening, mouth_width
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS

EXPRESSION_PARAMETERS = (
    *("yaw", "pitch", "roll", "x", "y"),
    *("blink", "gaze_x", "gaze_y", "squint"),
    *("brow", "smile", "frown"),
    *("mouth_open", "mouth_width", "lip_press", "lip_tuck", "tongue"),
)
"""What is read, by the names and in the units of the portrait world's `FaceState`."""
_NUM_FEATURES = 2 * NUM_FACE_LANDMARKS + 8


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

    linear_map: LinearMap

    def read(self, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
        """What a face does, counted from what it did in the first frame that shows it.

        Args:
            landmarks: (T, 478, 3) pixels, NaN where there is no face.

        Returns:
            (T, 17) changes of what `NAMES` tells, NaN where there is no face: correlations with the truth mean
            something, values only where the first frame is at rest.
        """
        seen = np.isfinite(landmarks).all(axis=(1, 2))
        found = np.full((len(landmarks), len(EXPRESSION_PARAMETERS)), np.nan)
        if seen.any():
            values = landmark_features(landmarks[seen])
            found[seen] = self.linear_map(values - values[0])
        return found

    def save(self, path: Path) -> None:
        """Writes the reader as one safetensors file, whole or not at all."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.linear_map._asdict().items()
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: str | Path) -> "ExpressionReader":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or holds something else.
        """
        stored = open_safetensors(existing_file(path, "expression reader"))
        wanted = {
            "mean": (_NUM_FEATURES,),
            "weights": (_NUM_FEATURES, len(EXPRESSION_PARAMETERS)),
            "offset": (len(EXPRESSION_PARAMETERS),),
        }
        check_shapes(stored.shapes, wanted, f"expression reader '{path}'", "fit it again")
        tensors = {name: stored.read(name) for name in wanted}
        check_finite(tensors, str(path))
        return cls(LinearMap(**{name: tensor.double().numpy() for name, tensor in tensors.items()}))


def landmark_features(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(T, 478, 3) landmarks to (T, 964): their places in the upright face, openings, and where the face is."""
    places = estimate_similarity(five_points(landmarks))
    plane = landmarks[..., 0] + 1j * landmarks[..., 1].astype(np.float64)
    upright = (plane - places.translation[:, None]) / places.scale_rotation[:, None]
    size = np.abs(places.scale_rotation)
    measures = [mouth_opening(landmarks), mouth_width(landmarks), *eye_opening(landmarks).T]
    # Head movements in sizes of the face, which hardly varies within a video.
    whole = [np.angle(places.scale_rotation), np.log(size), places.center.real / size, places.center.imag / size]
    return np.concatenate([upright.real, upright.imag, np.stack([*measures, *whole], axis=1)], axis=1)

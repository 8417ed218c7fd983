"""Reads the expression and pose of a face from MediaPipe's landmarks with a linear map, for evaluation.

It is independent of the expression encoders that drive a video: it uses landmarks instead of pixels and is fitted to
other people (`fantasytalking.nano`).
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
"""Names of the outputs, with the units of the portrait world's `FaceState`."""
_NUM_FEATURES = 2 * NUM_FACE_LANDMARKS + 8


class LinearMap(NamedTuple):
    """Maps x to (x - mean) weights + offset."""

    mean: NDArray[np.float64]
    """(F,)."""
    weights: NDArray[np.float64]
    """(F, K)."""
    offset: NDArray[np.float64]
    """(K,)."""

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Maps (N, F) to (N, K)."""
        result: NDArray[np.float64] = (features - self.mean) @ self.weights + self.offset
        return result


@dataclass(frozen=True)
class ExpressionReader:
    """Reads expression parameters from the landmarks of a video."""

    linear_map: LinearMap

    def read(self, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns the parameters of a face relative to the first frame that shows it.

        Args:
            landmarks: (T, 478, 3) pixels, NaN where there is no face.

        Returns:
            (T, 17) changes of `EXPRESSION_PARAMETERS`, NaN where there is no face. Correlations with the ground truth
            are always meaningful, values only if the face is at rest in the first frame.
        """
        seen = np.isfinite(landmarks).all(axis=(1, 2))
        found = np.full((len(landmarks), len(EXPRESSION_PARAMETERS)), np.nan)
        if seen.any():
            values = landmark_features(landmarks[seen])
            found[seen] = self.linear_map(values - values[0])
        return found

    def save(self, path: Path) -> None:
        """Writes the reader as one safetensors file, completely or not at all."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.linear_map._asdict().items()
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: str | Path) -> "ExpressionReader":
        """Loads a reader that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or not an expression reader.
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
    """Converts (T, 478, 3) landmarks to (T, 964) features: aligned positions, openings, and the pose of the face."""
    transforms = estimate_similarity(five_points(landmarks))
    plane = landmarks[..., 0] + 1j * landmarks[..., 1].astype(np.float64)
    upright = (plane - transforms.translation[:, None]) / transforms.scale_rotation[:, None]
    size = np.abs(transforms.scale_rotation)
    measures = [mouth_opening(landmarks), mouth_width(landmarks), *eye_opening(landmarks).T]
    # Head motion in face sizes, which barely vary within a video.
    x, y = transforms.center.real / size, transforms.center.imag / size
    pose = [np.angle(transforms.scale_rotation), np.log(size), x, y]
    return np.concatenate([upright.real, upright.imag, np.stack([*measures, *pose], axis=1)], axis=1)

"""Computes ArcFace identity embeddings of faces aligned by five points; no face detector is downloaded."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.encoders.onnx_file import read_onnx

ARCFACE_SIZE = 112
ARCFACE_DIM = 512


class FaceEncoder:
    """Runs insightface's ArcFaceONNX on faces aligned with insightface's norm_crop."""

    def __init__(self, network: Any) -> None:
        self._network = network

    @classmethod
    def from_pretrained(cls, source: str | Path, *, threads: int = 1) -> "FaceEncoder":
        """Loads the network of an .onnx file, or of the only .onnx file in a folder; runs on the CPU.

        Args:
            source: the file or folder.
            threads: number of CPU threads.

        Raises:
            InputError: the file is missing, larger than 1 GiB, not ONNX or stores weights in other files, or the
                network does not map one (1, 3, 112, 112) input to one (1, 512) output.
        """
        file = read_onnx(_resolve_onnx_file(Path(source)), "face encoder", "give the .onnx file of an ArcFace network")
        if [shape[1:] for shape in file.inputs] != [[3, ARCFACE_SIZE, ARCFACE_SIZE]] or [
            s[-1:] for s in file.outputs
        ] != [[ARCFACE_DIM]]:
            raise InputError(
                f"face encoder '{file.path}' maps {file.inputs} to {file.outputs}; an ArcFace network maps one "
                f"(1, 3, {ARCFACE_SIZE}, {ARCFACE_SIZE}) to one (1, {ARCFACE_DIM}); give another file",
                code=ErrorCode.shape_mismatch,
                field="face_encoder",
                value=(file.inputs, file.outputs),
            )
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        return cls(ArcFaceONNX(str(file.path), file.create_session(threads)))

    def encode(self, frame: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Returns the embedding of one face.

        Args:
            frame: (H, W, 3) uint8 RGB.
            points: (5, 2) pixels (x, y): left eye, right eye, tip of the nose, left and right corner of the mouth,
                with left and right as in the image.

        Returns:
            (512,) of length 1, so that a dot product is the cosine similarity and the scale of the face network does
            not affect the model.
        """
        return self.encode_aligned(self.align(frame, points))

    def align(self, frame: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Returns the face rotated and scaled to ArcFace's standard position, (112, 112, 3) RGB."""
        from insightface.utils.face_align import norm_crop

        assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8, "frame must be (H, W, 3) uint8"
        assert points.shape == (5, 2), f"points must be (5, 2), not {points.shape}"
        with warnings.catch_warnings():
            # insightface calls a function of scikit-image that is deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            return norm_crop(frame, np.asarray(points, dtype=np.float32), ARCFACE_SIZE)

    def encode_aligned(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the embedding (512,) of length 1 of an aligned RGB face (112, 112, 3).

        Raises:
            InputError: the network fails, or returns other values than it declares.
        """
        assert face.shape == (ARCFACE_SIZE, ARCFACE_SIZE, 3), (
            f"face must be ({ARCFACE_SIZE}, {ARCFACE_SIZE}, 3), not {face.shape}"
        )
        # ArcFaceONNX expects BGR, as OpenCV reads images, and swaps the channels itself.
        embedding = self._network.get_feat(np.ascontiguousarray(face[:, :, ::-1]))[0].astype(np.float32)
        if embedding.shape != (ARCFACE_DIM,):
            raise InputError(
                f"face encoder returned {embedding.shape} values, not the {ARCFACE_DIM} that it declares; give another "
                "file",
                code=ErrorCode.shape_mismatch,
                field="face_encoder",
                value=embedding.shape,
            )
        length = float(np.linalg.norm(embedding))
        return embedding / np.float32(max(length, 1e-12))


def _resolve_onnx_file(source: Path) -> Path:
    if source.is_dir():
        found = sorted(source.glob("*.onnx"))
        if len(found) != 1:
            raise InputError(
                f"face encoder: '{source}' contains {len(found)} .onnx files; give the path of one",
                code=ErrorCode.missing_weights,
                field="face_encoder",
                value=len(found),
            )
        return found[0]
    return existing_file(source, "face encoder")

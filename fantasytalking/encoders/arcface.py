"""ArcFace identity embeddings from a local .onnx, aligned by five points; no face detector is downloaded."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.errors import InputError
from fantasytalking.files import existing_file

SIZE = 112
DIM = 512
MAX_BYTES = 1 << 30
"""The largest known face network (glint360k r100) has 261 MB."""


class FaceEncoder:
    """insightface's ArcFaceONNX on faces aligned with insightface's norm_crop."""

    def __init__(self, network: Any) -> None:
        self._network = network

    @classmethod
    def from_pretrained(cls, source: str | Path, *, threads: int = 1) -> "FaceEncoder":
        """The network at an .onnx file, or the only .onnx of a folder. Runs on the CPU with `threads` threads.

        Raises:
            InputError: there is no such file, it is over 1 GiB, not an ONNX network, keeps weights in other files,
                or does not map one (1, 3, 112, 112) input to one (1, 512) output.
        """
        path = _only_onnx(Path(source))
        _check_graph(path)
        import onnxruntime
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            errors.Fail,
            errors.InvalidGraph,
            errors.NotImplemented,
            errors.InvalidArgument,
        ) as error:
            raise InputError(f"face encoder '{path}' cannot be run ({str(error).splitlines()[0][:200]})") from error
        return cls(ArcFaceONNX(str(path), session))

    def encode(self, frame: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float32]:
        """The embedding of one face.

        Args:
            frame: (H, W, 3) RGB.
            points: (5, 2) pixels (x, y): left eye, right eye, tip of the nose, left and right corner of the mouth, as
                they stand in the picture.

        Returns:
            (512,) of length 1, so that a dot product is the cosine similarity and the scale of the face network does
            not matter to what is trained on it.
        """
        return self.encode_aligned(self.align(frame, points))

    def align(self, frame: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The face turned and scaled to ArcFace's standard position, (112, 112, 3) RGB."""
        from insightface.utils.face_align import norm_crop

        assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8, "frame must be (H, W, 3) uint8"
        assert points.shape == (5, 2), f"points must be (5, 2), not {points.shape}"
        with warnings.catch_warnings():
            # insightface calls scikit-image by a name that is about to change.
            warnings.simplefilter("ignore", FutureWarning)
            return norm_crop(frame, np.asarray(points, dtype=np.float32), SIZE)

    def encode_aligned(self, face: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The embedding (512,) of length 1 of an aligned RGB face (112, 112, 3)."""
        assert face.shape == (SIZE, SIZE, 3), f"face must be ({SIZE}, {SIZE}, 3), not {face.shape}"
        # ArcFaceONNX takes BGR, as OpenCV reads it, and swaps the channels itself.
        embedding = self._network.get_feat(np.ascontiguousarray(face[:, :, ::-1]))[0].astype(np.float32)
        length = float(np.linalg.norm(embedding))
        return embedding / np.float32(max(length, 1e-12))


def _only_onnx(source: Path) -> Path:
    if source.is_dir():
        found = sorted(source.glob("*.onnx"))
        if len(found) != 1:
            raise InputError(f"face encoder: '{source}' holds {len(found)} .onnx files; name the one to use")
        return found[0]
    return existing_file(source, "face encoder")


def _check_graph(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"face encoder '{path}' has {size} bytes; the limit is {MAX_BYTES}; give an ArcFace .onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InputError(f"face encoder '{path}' is not an ONNX file; give an ArcFace network's .onnx") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise InputError(f"face encoder '{path}' keeps its weights in other files; save it as one file")
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shapes = [_shape(value) for value in (*inputs, *graph.output)]
    if len(shapes) != 2 or shapes[0][1:] != [3, SIZE, SIZE] or shapes[1][-1:] != [DIM]:
        raise InputError(
            f"face encoder '{path}' maps {shapes[: len(inputs)]} to {shapes[len(inputs) :]}; "
            f"an ArcFace network maps one (1, 3, {SIZE}, {SIZE}) to one (1, {DIM})"
        )


def _shape(value: Any) -> list[int]:
    """The sizes of an input or output of a graph, 0 for a free one."""
    return [size.dim_value for size in value.type.tensor_type.shape.dim]

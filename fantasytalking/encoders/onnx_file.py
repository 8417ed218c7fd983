"""Networks in .onnx files of others: checked before they are run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file

MAX_ONNX_BYTES = 1 << 30
"""The largest known face network (glint360k r100) has 261 MB."""


@dataclass(frozen=True)
class OnnxFile:
    """A network that has been read and not yet built."""

    path: Path
    label: str
    """What errors call it."""
    inputs: list[list[int]]
    """Sizes; 0 for a free one."""
    outputs: list[list[int]]

    def create_session(self, threads: int = 1) -> Any:
        """The network as onnxruntime runs it, on the CPU.

        Raises:
            InputError: it cannot be run.
        """
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidGraph, errors.NotImplemented, errors.InvalidArgument) as error:
            detail = str(error).splitlines()[0][:200]
            raise InputError(f"{self.label} '{self.path}' cannot be run ({detail})") from error


def read_onnx(path: Path, label: str, hint: str) -> OnnxFile:
    """Reads a network's inputs and outputs.

    Args:
        path: of the .onnx file.
        label: what errors call it.
        hint: what to give instead of a file that is none.

    Raises:
        InputError: there is no such file, it is over 1 GiB, not an ONNX network, or keeps weights in other files.
    """
    size = existing_file(path, label).stat().st_size
    if size > MAX_ONNX_BYTES:
        raise InputError(f"{label} '{path}' has {size} bytes; the limit is {MAX_ONNX_BYTES}; {hint}")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InputError(f"{label} '{path}' is not an ONNX file; {hint}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise InputError(f"{label} '{path}' keeps its weights in other files; save it as one file")
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in constants]
    return OnnxFile(path, label, inputs, [_shape(value) for value in graph.output])


def _shape(value: Any) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]

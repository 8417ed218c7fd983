"""Reads third-party .onnx files and checks them before they run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import MAX_ONNX_BYTES


@dataclass(frozen=True)
class OnnxFile:
    """A network that was read but not built."""

    path: Path
    label: str
    """Name of the network in messages."""
    inputs: list[list[int]]
    """Shapes of the inputs; 0 for a dynamic size."""
    outputs: list[list[int]]
    """Shapes of the outputs; 0 for a dynamic size."""

    def create_session(self, threads: int = 1) -> Any:
        """Creates an onnxruntime session on the CPU with `threads` threads.

        Raises:
            InputError: the network cannot be run.
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
            raise InputError(
                f"{self.label} '{self.path}' cannot be run ({detail}); give another file",
                code=ErrorCode.unsupported,
                field=self.label,
                value=str(self.path),
            ) from error


def read_onnx(path: Path, label: str, hint: str) -> OnnxFile:
    """Reads the inputs and outputs of a network.

    Args:
        path: the .onnx file.
        label: name of the network in messages.
        hint: the cure in messages, for example which file to give.

    Raises:
        InputError: the file is missing, larger than `MAX_ONNX_BYTES`, not ONNX, or stores weights in other files.
    """
    size = existing_file(path, label).stat().st_size
    if size > MAX_ONNX_BYTES:
        raise InputError(
            f"{label} '{path}' has {size} bytes; the limit is {MAX_ONNX_BYTES}; {hint}",
            code=ErrorCode.out_of_range,
            field=label,
            value=size,
        )
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise InputError(
            f"{label} '{path}' is not an ONNX file; {hint}",
            code=ErrorCode.malformed_file,
            field=label,
            value=str(path),
        ) from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise InputError(
            f"{label} '{path}' stores its weights in other files; save it as one file",
            code=ErrorCode.unsupported,
            field=label,
            value=str(path),
        )
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in constants]
    return OnnxFile(path, label, inputs, [_shape(value) for value in graph.output])


def _shape(value: Any) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]

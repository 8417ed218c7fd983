"""Reads third-party .onnx files and checks them before they run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import bounded_file
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

    def create_session(self, threads: int = 1) -> "OnnxSession":
        """Creates an onnxruntime session on the CPU with `threads` threads.

        Raises:
            InputError: the network cannot be run.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except _onnxruntime_errors() as error:
            raise self._cannot_run(error) from error
        return OnnxSession(self, session)

    def _cannot_run(self, error: Exception) -> InputError:
        detail = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return InputError(
            f"{self.label} '{self.path}' cannot be run ({detail}); give another file",
            code=ErrorCode.unsupported,
            field=self.label,
            value=str(self.path),
        )


class OnnxSession:
    """An onnxruntime session whose errors are those of its file: some networks fail only when they are run."""

    def __init__(self, file: OnnxFile, session: Any) -> None:
        self._file, self._session = file, session

    def get_inputs(self) -> Any:
        """Returns onnxruntime's descriptions of the inputs."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Returns onnxruntime's descriptions of the outputs."""
        return self._session.get_outputs()

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Returns the outputs of these names, or all.

        Raises:
            InputError: the network fails, or an output is not finite.
        """
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(names, dict(inputs))
        except _onnxruntime_errors() as error:
            raise self._file._cannot_run(error) from error
        for output in outputs:
            if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or not np.isfinite(output).all():
                raise self._file._cannot_run(ValueError("an output has values that are no finite numbers"))
        return outputs


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions of onnxruntime, which have no common class, and those of its binding."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    kinds = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return *(getattr(errors, kind) for kind in (*kinds, "EPFail", "NoModel", "NoSuchFile")), RuntimeError, ValueError


def read_onnx(path: Path, label: str, hint: str) -> OnnxFile:
    """Reads the inputs and outputs of a network.

    Args:
        path: the .onnx file.
        label: name of the network in messages.
        hint: the cure in messages, for example which file to give.

    Raises:
        InputError: the file is missing, larger than `MAX_ONNX_BYTES`, not ONNX, or stores weights in other files.
    """
    bounded_file(path, label, MAX_ONNX_BYTES, hint)
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
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(graph)):
        raise InputError(
            f"{label} '{path}' stores its weights in other files; save it as one file",
            code=ErrorCode.unsupported,
            field=label,
            value=str(path),
        )
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_shape(value) for value in graph.input if value.name not in constants]
    return OnnxFile(path, label, inputs, [_shape(value) for value in graph.output])


def _tensors(graph: Any) -> Iterator[Any]:
    """Yields every stored tensor of a graph: initializers and the attributes of nodes, also of graphs inside."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _shape(value: Any) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]

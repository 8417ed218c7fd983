"""Opens GGUF files, whose tensors are dequantized on reading.

The header is parsed here, bounded by the file: the reader of the `gguf` package trusts its counts and lengths.
Dequantization is diffusers'. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError, install_command
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import MAX_GGUF_HEADER_BYTES
from fantasytalking.common.stored_tensors import LazyTensors, QuantizedTensor

GGUF_SUFFIX = ".gguf"
GGUF_VERSIONS = (2, 3)
MAX_AXES = 8
SHAPE_KEY = "comfy.gguf.orig_shape."
"""Beginning of the key of a tensor's shape, in files that store it with other axes (ComfyUI-GGUF)."""

_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of `struct` by the types of metadata that are numbers."""
_PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _StoredTensor:
    quantization: Any
    """A `gguf.GGMLQuantizationType`."""
    start: int
    num_bytes: int
    shape: tuple[int, ...]
    block_bytes: int
    block_size: int
    """Values per block."""


def open_gguf(path: Path) -> LazyTensors:
    """Opens the tensors of a GGUF file: plain ones in their dtype, quantized ones in float32.

    Raises:
        InputError: the file is missing or damaged, describes more than it holds, or has a quantization that diffusers
            does not dequantize; or `gguf` is not installed.
    """
    existing_file(path, "weights")
    if find_spec("gguf") is None:
        raise InputError(
            f"'{path}' is a GGUF file, which needs the package gguf: {install_command('gguf')}",
            code=ErrorCode.unsupported,
            field="gguf",
            value=str(path),
        )
    try:
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
    except ValueError as error:  # an empty file
        raise _damaged(path, "is empty") from error
    header = _Header(data, path)
    metadata = header.read_metadata()
    tensors = header.read_tensors(metadata)
    dtypes = {name: _PLAIN_DTYPES.get(each.quantization.name, torch.float32) for name, each in tensors.items()}
    is_quantized = any(each.quantization.name not in _PLAIN_DTYPES for each in tensors.values())
    return LazyTensors(
        str(path),
        {name: each.shape for name, each in tensors.items()},
        partial(_read_tensor, data, tensors),
        dtypes,
        torch.float32 if is_quantized else None,
        {name: partial(_read_blocks, data, each) for name, each in tensors.items() if _has_rows_of_blocks(each)},
    )


def _has_rows_of_blocks(stored: _StoredTensor) -> bool:
    """Whether a tensor is a quantized matrix each of whose rows is whole blocks."""
    is_matrix = len(stored.shape) == 2 and math.prod(stored.shape) > 0
    return stored.quantization.name not in _PLAIN_DTYPES and is_matrix and stored.shape[1] % stored.block_size == 0


def _read_blocks(data: NDArray[np.uint8], stored: _StoredTensor) -> QuantizedTensor:
    """The blocks where the file is mapped, which takes no memory of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)  # nothing writes to it
        values = torch.from_numpy(data[stored.start : stored.start + stored.num_bytes])
    return QuantizedTensor(values.reshape(stored.shape[0], -1), block_format=stored.quantization)


def _read_tensor(data: NDArray[np.uint8], tensors: Mapping[str, _StoredTensor], name: str) -> Tensor:
    from diffusers.quantizers.gguf.utils import dequantize_functions

    stored = tensors[name]
    values = torch.from_numpy(np.array(data[stored.start : stored.start + stored.num_bytes]))  # a copy, aligned
    plain = _PLAIN_DTYPES.get(stored.quantization.name)
    if plain is not None:
        return values.view(plain).reshape(stored.shape)
    blocks = values.reshape(-1, stored.block_bytes)
    dequantize = dequantize_functions[stored.quantization]
    numbers: Tensor = dequantize(blocks, stored.block_size, stored.block_bytes, torch.float32)
    return numbers.reshape(stored.shape)


class _Header:
    """Reads a header from its beginning; every length is compared with what is left."""

    def __init__(self, data: NDArray[np.uint8], path: Path) -> None:
        self._data, self._path, self._position = data, path, 0
        self._limit = min(len(data), MAX_GGUF_HEADER_BYTES)

    def read_metadata(self) -> dict[str, Any]:
        """Returns the alignment and the shapes of tensors that are stored with other axes; skips other entries."""
        magic, version, self._num_tensors, num_entries = self._numbers("<4sIQQ")
        if magic != b"GGUF" or version not in GGUF_VERSIONS:
            raise _damaged(self._path, f"does not begin as GGUF of version {' or '.join(map(str, GGUF_VERSIONS))}")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._text()
            (kind,) = self._numbers("<I")
            is_read = key == "general.alignment" or key.startswith(SHAPE_KEY)
            value = self._value(kind, is_read)
            if is_read:
                metadata[key] = value
        return metadata

    def read_tensors(self, metadata: Mapping[str, Any]) -> dict[str, _StoredTensor]:
        """Returns the tensors by name; they lie within the file and take no more bytes than it has."""
        described = [self._tensor_entry() for _ in range(self._num_tensors)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
            raise _damaged(self._path, f"has the alignment {alignment!r}")
        start = -(-self._position // alignment) * alignment
        tensors: dict[str, _StoredTensor] = {}
        for name, axes, kind, offset in described:
            if name in tensors:
                raise _damaged(self._path, "contains a name twice", name)
            shape = metadata.get(f"{SHAPE_KEY}{name}", axes)
            tensors[name] = self._stored_tensor(name, axes, shape, kind, start + offset)
        if sum(each.num_bytes for each in tensors.values()) > len(self._data):
            raise _damaged(self._path, "describes tensors that overlap")
        return tensors

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        (num_axes,) = self._numbers("<I")
        if num_axes > MAX_AXES:
            raise _damaged(self._path, f"has a tensor of {num_axes} axes", name)
        axes = self._numbers(f"<{num_axes}Q")
        kind, offset = self._numbers("<IQ")
        return name, tuple(reversed(axes)), kind, offset

    def _stored_tensor(self, name: str, axes: tuple[int, ...], shape: Any, kind: int, start: int) -> _StoredTensor:
        quantization, block_size, block_bytes = _quantization(kind, name, self._path)
        count = math.prod(axes)
        fits = isinstance(shape, tuple) and len(shape) <= MAX_AXES and all(type(size) is int for size in shape)
        if not fits or min(shape, default=1) < 0 or math.prod(shape) != count or (axes or (1,))[-1] % block_size:
            raise _damaged(self._path, f"has a tensor of {axes} values with the shape {str(shape)[:80]}", name)
        num_bytes = count // block_size * block_bytes
        if start + num_bytes > len(self._data):
            raise _damaged(self._path, "ends before its last tensor", name)
        return _StoredTensor(quantization, start, num_bytes, shape, block_bytes, block_size)

    def _value(self, kind: int, is_read: bool) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _NUMBERS:
            return self._numbers(f"<{_NUMBERS[kind]}")[0]
        if kind != _ARRAY:
            raise _damaged(self._path, f"has metadata of the unknown type {kind}")
        item, count = self._numbers("<IQ")
        if item == _STRING:
            for _ in range(count):  # each takes bytes of the file
                self._skip(self._numbers("<Q")[0])
            return None
        if item not in _NUMBERS:
            raise _damaged(self._path, f"has metadata of the unknown type {item} in a list")
        if is_read and count <= MAX_AXES:
            return self._numbers(f"<{count}{_NUMBERS[item]}")
        return self._skip(count * struct.calcsize(_NUMBERS[item]))

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        begin = self._position
        self._skip(length)
        try:
            return bytes(self._data[begin : self._position]).decode()
        except UnicodeDecodeError as error:
            raise _damaged(self._path, "has a name that is not UTF-8") from error

    def _numbers(self, form: str) -> tuple[Any, ...]:
        begin = self._position
        self._skip(struct.calcsize(form))
        return struct.unpack(form, bytes(self._data[begin : self._position]))

    def _skip(self, num_bytes: int) -> None:
        self._position += num_bytes
        if self._position > self._limit:
            is_long = self._limit < len(self._data)
            raise _damaged(self._path, f"has a header of more than {self._limit} bytes" if is_long else "is cut off")


def _quantization(kind: int, name: str, path: Path) -> tuple[Any, int, int]:
    """Returns the type of a tensor, and the values and bytes of its blocks."""
    from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions

    found = next((each for each in GGML_QUANT_SIZES if int(each) == kind), None)
    if found is None or (found.name not in _PLAIN_DTYPES and found not in dequantize_functions):
        known = ", ".join([*_PLAIN_DTYPES, *(each.name for each in dequantize_functions if each.name != "BF16")])
        raise InputError(
            f"'{path}': the tensor '{name}' is stored as {found.name if found is not None else kind}; {known} are "
            "read; use the file in one of them",
            code=ErrorCode.unsupported,
            field=name,
            value=kind,
        )
    block_size, block_bytes = GGML_QUANT_SIZES[found]
    return found, block_size, block_bytes


def _damaged(path: Path, problem: str, name: str | None = None) -> InputError:
    where = "" if name is None else f" ('{name[:200]}')"
    return InputError(
        f"'{path}' {problem}{where}; get it again from its source",
        code=ErrorCode.malformed_file,
        field=name or str(path),
    )

"""Provides named tensors of files, read one at a time; quantized ones are dequantized on reading.

Weights in float8 are read as numbers, and with their scales where the file has them: `X.weight` times `X.scale_weight`
or `X.weight_scale`, for the whole tensor or per output channel. ComfyUI's descriptions of layers (`X.comfy_quant`, or
in the metadata) must be of formats that are read so.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_QUANTIZATION_JSON_BYTES

FLOAT8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Formats of stored weights, exactly representable in bfloat16. PyTorch does not compute with them."""
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
"""Endings of a weight's scale, in place of `.weight`."""
UNUSED_ENDINGS = (".scale_input", ".input_scale")
"""Endings of the scale of a layer's inputs, which only products in float8 need."""
FLOAT8_MARKER = "scaled_fp8"
"""Last part of the name of an empty tensor that marks a file whose float8 weights all have scales."""
DESCRIPTION_ENDING = ".comfy_quant"
"""Ending of a tensor whose bytes are JSON about the quantization of a layer (ComfyUI)."""
DESCRIBED_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""Formats in such descriptions whose weights are numbers times a scale."""
HARMLESS_KEYS = frozenset({"format", "full_precision_matrix_mult", "convrot"})
"""Other keys of descriptions; convrot, a rotation of the weights, only where it is false."""
MAX_DEQUANTIZED_VALUES = 1 << 24
"""Most values of a matrix that are dequantized at once: 64 MiB in float32."""
OTHER_QUANTIZATION_ENDINGS = (".weight_scale_2", ".weight_scale_inv", ".absmax", ".qweight", ".qzeros")
"""Endings of tensors of quantization formats that are not read."""


@dataclass(frozen=True)
class QuantizedTensor:
    """Values of a tensor as its file stores them."""

    values: Tensor
    """Of one byte each in the tensor's shape; of GGUF, rows of blocks: (rows, bytes) uint8."""
    scale: Tensor | None = None
    """Float32 factor of the values, of the whole tensor or per row; None: there is none."""
    block_format: Any = None
    """`gguf.GGMLQuantizationType` of the blocks; None: the values are numbers."""

    def dequantized_rows(self, start: int, stop: int) -> Tensor:
        """Returns rows of a matrix as float32 numbers."""
        values = self.values[start:stop]
        if self.block_format is None:
            per_row = self.scale is not None and self.scale.ndim > 0 and len(self.scale) > 1
            return scaled_values(values, self.scale[start:stop] if self.scale is not None and per_row else self.scale)
        from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions  # needs the package gguf

        sizes = GGML_QUANT_SIZES[self.block_format]
        blocks = values.reshape(-1, sizes[1])
        numbers: Tensor = dequantize_functions[self.block_format](blocks, *sizes, torch.float32)
        return numbers.reshape(len(values), -1)


@dataclass(frozen=True)
class LazyTensors:
    """Named tensors of known shapes and dtypes that are read one at a time."""

    source: str
    """File or folder, for messages."""
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    """As stored; tensors without an entry are not quantized."""
    dequantized_to: torch.dtype | None = None
    """Dtype in which quantized tensors are read; None: no tensor is quantized."""
    quantized: Mapping[str, Callable[[], QuantizedTensor]] = field(default_factory=dict)
    """Readers of weights as stored, by name, of those that can be kept so."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str) -> "LazyTensors":
        """Wraps tensors in memory."""
        return cls(
            source,
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
            tensors.__getitem__,
            {name: tensor.dtype for name, tensor in tensors.items()},
        )

    def renamed(self, names: Mapping[str, str]) -> "LazyTensors":
        """Returns the tensors under new names; `names` maps new names to present ones."""
        return replace(
            self,
            shapes={new: self.shapes[old] for new, old in names.items()},
            dtypes={new: self.dtypes[old] for new, old in names.items() if old in self.dtypes},
            read=lambda name: self.read(names[name]),
            quantized={new: self.quantized[old] for new, old in names.items() if old in self.quantized},
        )

    def joined(self, other: "LazyTensors") -> "LazyTensors":
        """Returns the tensors of both.

        Raises:
            InputError: a name is in both.
        """
        for name in self.shapes:
            if name in other.shapes:
                raise _error(self, name, f"is also in '{other.source}'")
        return replace(
            self,
            shapes={**self.shapes, **other.shapes},
            dtypes={**self.dtypes, **other.dtypes},
            read=lambda name: (self if name in self.shapes else other).read(name),
            dequantized_to=self.dequantized_to or other.dequantized_to,
            quantized={**self.quantized, **other.quantized},
        )

    def read_as(self, name: str, dtype: torch.dtype) -> Tensor:
        """Reads a tensor in a dtype: a quantized matrix some rows at a time, so that it is never whole in float32."""
        if name not in self.quantized or len(self.shapes[name]) != 2:
            return self.read(name).to(dtype)
        stored, (rows, columns) = self.quantized[name](), self.shapes[name]
        result = torch.empty(rows, columns, dtype=dtype)
        step = max(MAX_DEQUANTIZED_VALUES // columns, 1)
        for start in range(0, rows, step):
            result[start : start + step] = stored.dequantized_rows(start, start + step)
        return result

    def read_all(self) -> dict[str, Tensor]:
        """Reads every tensor."""
        return {name: self.read(name) for name in self.shapes}


def dequantized(stored: LazyTensors, described: Mapping[str, Any] = MappingProxyType({})) -> LazyTensors:
    """Returns the tensors without scales and markers, quantized ones as plain numbers times their scale.

    They are read in float32 where the file has scales, otherwise in bfloat16, which is exact.

    Args:
        described: descriptions of layers' quantization in the file's metadata, by layer.

    Raises:
        InputError: the file is quantized in another format, a scale belongs to no weight or does not fit it, or a
            float8 weight of a file with `FLOAT8_MARKER` has no scale.
    """
    for layer, values in described.items():
        _check_description(stored, layer, values)
    scales, others = _sort_names(stored)
    kept = {name: name for name in stored.shapes if name not in others}
    float8 = {name for name in kept if stored.dtypes.get(name) in FLOAT8_DTYPES}
    marked = any(name.rpartition(".")[2] == FLOAT8_MARKER for name in others)
    unscaled = sorted(name for name in float8 - scales.keys() if name.endswith(".weight"))
    if marked and unscaled:
        raise _error(stored, unscaled[0], "is float8 without a scale, in a file whose weights have scales")
    for name in sorted(others):
        weight = f"{name.removesuffix(DESCRIPTION_ENDING)}.weight"
        if name.endswith(DESCRIPTION_ENDING) and weight not in scales:
            raise _error(stored, weight, "is described as quantized, but has no scale")
    if not float8 and not scales:
        return stored if not others else stored.renamed(kept)
    dtype = torch.float32 if scales else torch.bfloat16

    def read_quantized(name: str) -> QuantizedTensor:
        return QuantizedTensor(stored.read(name), _read_scale(stored, scales[name], name) if name in scales else None)

    def read(name: str) -> Tensor:
        if name in scales:
            return scaled_values(stored.read(name), _read_scale(stored, scales[name], name))
        return stored.read(name).to(dtype) if name in float8 else stored.read(name)

    of_one_byte = [name for name in float8 | scales.keys() if stored.dtypes[name].itemsize == 1]
    quantized = {name: partial(read_quantized, name) for name in of_one_byte if name.endswith(".weight")}
    return replace(stored.renamed(kept), read=read, dequantized_to=dtype, quantized=quantized)


def scaled_values(values: Tensor, scale: Tensor | None) -> Tensor:
    """Returns stored values times their scale in float32."""
    numbers = values.to(torch.float32)
    return numbers if scale is None else numbers * scale


def _sort_names(stored: LazyTensors) -> tuple[dict[str, str], set[str]]:
    """Returns the scale of each scaled weight, and the names of scales and markers."""
    scales: dict[str, str] = {}
    others: set[str] = set()
    for name in stored.shapes:
        ending = next((end for end in (*SCALE_ENDINGS, *UNUSED_ENDINGS) if name.endswith(end)), None)
        if name.rpartition(".")[2] == FLOAT8_MARKER:
            others.add(name)
        elif name.endswith(DESCRIPTION_ENDING):
            _check_description(stored, name, _read_description(stored, name))
            others.add(name)
        elif name.endswith(OTHER_QUANTIZATION_ENDINGS):
            raise _error(
                stored, name, "belongs to a quantization that is not read", "use the file in fp16, bf16 or scaled fp8"
            )
        elif ending is not None:
            weight = f"{name.removesuffix(ending)}.weight"
            if weight not in stored.shapes:
                raise _error(stored, name, f"is a scale, but there is no '{weight}'")
            others.add(name)
            if ending in SCALE_ENDINGS:
                if weight in scales:
                    raise _error(stored, name, f"is a second scale of '{weight}'")
                _check_scale_shape(stored, name, weight)
                scales[weight] = name
    return scales, others


def _read_description(stored: LazyTensors, name: str) -> Any:
    if len(stored.shapes[name]) != 1 or stored.shapes[name][0] > MAX_QUANTIZATION_JSON_BYTES:
        raise _error(stored, name, "is no short list of bytes")
    return parse_quantization_json(stored.read(name).to(torch.uint8).numpy().tobytes(), stored.source)


def parse_quantization_json(text: str | bytes, source: str) -> Any:
    """Parses a description of quantization.

    Raises:
        InputError: it is not valid JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"'{source}': a description of its quantization is no JSON; get the file again from its source",
            code=ErrorCode.malformed_file,
            field=source,
        ) from error


def _check_description(stored: LazyTensors, name: str, values: Any) -> None:
    kind = values.get("format") if isinstance(values, dict) else None
    if kind not in DESCRIBED_FORMATS or values.get("convrot") or values.keys() - HARMLESS_KEYS:
        shown = f"{kind} with further steps" if kind in DESCRIBED_FORMATS else str(kind)[:40]
        raise _error(
            stored, name, f"is quantized as {shown}, which is not read", "use the file in fp16, bf16 or scaled fp8"
        )


def _check_scale_shape(stored: LazyTensors, scale: str, weight: str) -> None:
    shape, own = stored.shapes[scale], stored.shapes[weight]
    channels = own[:1]
    if shape in ((), (1,)) or (channels and shape in (channels, channels + (1,) * (len(own) - 1))):
        return
    raise _error(stored, scale, f"has the shape {shape}; one number or one per row of '{weight}' {own} is read")


def _read_scale(stored: LazyTensors, name: str, weight: str) -> Tensor:
    scale = stored.read(name).to(torch.float32)
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise _error(stored, name, "is not a finite number above 0")
    return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, *(1,) * (len(stored.shapes[weight]) - 1))


def _error(
    stored: LazyTensors, name: str, problem: str, cure: str = "get the file again from its source"
) -> InputError:
    return InputError(
        f"'{stored.source}': the tensor '{name}' {problem}; {cure}", code=ErrorCode.malformed_file, field=name
    )

"""Opens the weights of one file by its format: safetensors, GGUF or a torch file of plain tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.gguf_file import GGUF_SUFFIX, open_gguf
from fantasytalking.common.stored_tensors import LazyTensors, dequantized
from fantasytalking.common.tensor_io import PICKLE_SUFFIXES, open_safetensors
from fantasytalking.common.torch_file import read_pickle

TORCH_SUFFIXES = (*PICKLE_SUFFIXES, ".bin")
WRAPPERS = ("state_dict", "model")
"""Only keys of torch files that contain the weights as their value."""


def open_weights(path: Path) -> LazyTensors:
    """Opens the tensors of one file; quantized ones are dequantized on reading.

    Tensors of a torch file of several parts have the parts as prefixes of their names.

    Raises:
        InputError: the file is missing or damaged, has another suffix, contains anything but named tensors, or is
            quantized in a way that is not supported.
    """
    if path.suffix.lower() not in WEIGHT_FORMATS:
        raise InputError(
            f"'{path}': the suffix is '{path.suffix}'; weights are read from {', '.join(WEIGHT_FORMATS)}",
            code=ErrorCode.invalid_choice,
            field=str(path),
            value=path.suffix,
        )
    return WEIGHT_FORMATS[path.suffix.lower()](path)


def open_torch_file(path: Path) -> LazyTensors:
    """Opens a torch file of named tensors, in parts or not, with or without one of the `WRAPPERS`.

    Raises:
        InputError: as `open_weights`.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _named_tensors("", _unwrapped(read_pickle(path, mapped=True)), str(path)):
        if name in tensors:
            raise InputError(
                f"'{path}' contains '{name}' twice; get it again from its source",
                code=ErrorCode.malformed_file,
                field=name,
            )
        tensors[name] = tensor
    return dequantized(LazyTensors.from_tensors(tensors, str(path)))


WEIGHT_FORMATS: dict[str, Callable[[Path], LazyTensors]] = {
    ".safetensors": open_safetensors,
    GGUF_SUFFIX: open_gguf,
    **dict.fromkeys(TORCH_SUFFIXES, open_torch_file),
}
"""What opens a file, by its suffix."""
WEIGHT_SUFFIXES = tuple(WEIGHT_FORMATS)


def without_prefix(stored: LazyTensors, prefixes: Sequence[str]) -> LazyTensors:
    """Returns the tensors without the first of `prefixes` that all names begin with; unchanged where there is none."""
    for prefix in prefixes:
        if stored.shapes and all(name.startswith(prefix) for name in stored.shapes):
            return stored.renamed({name.removeprefix(prefix): name for name in stored.shapes})
    return stored


def _unwrapped(loaded: Any) -> Any:
    is_wrapped = isinstance(loaded, Mapping) and len(loaded) == 1 and next(iter(loaded)) in WRAPPERS
    return next(iter(loaded.values())) if is_wrapped else loaded


def _named_tensors(prefix: str, value: Any, source: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor) and prefix:
        yield prefix, value
    elif isinstance(value, Mapping) and prefix.count(".") < 1:
        for name, item in value.items():
            yield from _named_tensors(f"{prefix}.{name}" if prefix else str(name), item, source)
    else:
        raise InputError(
            f"'{source}': '{prefix or 'the file'}' is a {type(value).__name__}; named tensors are required; get the "
            "file again from its source",
            code=ErrorCode.malformed_file,
            field=prefix or source,
        )

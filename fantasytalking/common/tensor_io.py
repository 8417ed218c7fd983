"""Reads and writes files of named tensors: safetensors lazily, torch files only as plain tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.limits import MAX_QUANTIZATION_JSON_BYTES
from fantasytalking.common.stored_tensors import LazyTensors, dequantized, parse_quantization_json
from fantasytalking.common.text_files import read_json
from fantasytalking.common.torch_file import read_pickle

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth")
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Dtypes of safetensors files that are read."""
QUANTIZATION_METADATA_KEY = "_quantization_metadata"
"""Entry of a safetensors file's metadata with descriptions of its quantized layers (ComfyUI)."""


def open_safetensors(*paths: Path) -> LazyTensors:
    """Opens the tensors of one file or of the shards of one model; quantized ones are dequantized on reading.

    Raises:
        InputError: a file is missing or not safetensors, a name is in two shards, or a dtype or quantization is not
            supported.
    """
    handles: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    described: dict[str, Any] = {}
    for path in paths:
        handle = _open_safetensors(path)
        described |= _described_layers(handle.metadata() or {}, path)
        for name in handle.keys():  # noqa: SIM118  (a safetensors handle is no mapping)
            if name in handles:
                raise InputError(
                    f"'{path}': the tensor '{name}' is also in another shard; download the files again",
                    code=ErrorCode.malformed_file,
                    field=name,
                )
            handles[name] = handle
            part = handle.get_slice(name)
            shapes[name], dtypes[name] = tuple(part.get_shape()), _dtype(part.get_dtype(), name, path)
    return dequantized(
        LazyTensors(str(paths[0]), shapes, lambda name: handles[name].get_tensor(name), dtypes), described
    )


def _described_layers(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Returns ComfyUI's descriptions of quantized layers in a file's metadata."""
    text = metadata.get(QUANTIZATION_METADATA_KEY, "{}")
    values = parse_quantization_json(text if len(text) <= MAX_QUANTIZATION_JSON_BYTES else "", str(path))
    layers = values.get("layers", {}) if isinstance(values, dict) else None
    if not isinstance(layers, dict):
        raise InputError(
            f"'{path}': its metadata {QUANTIZATION_METADATA_KEY} has no layers; get it again from its source",
            code=ErrorCode.malformed_file,
            field=QUANTIZATION_METADATA_KEY,
        )
    return layers


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Reads the text metadata of a safetensors file.

    Raises:
        InputError: the file is missing or not safetensors.
    """
    return _open_safetensors(path).metadata() or {}


def open_model_folder(folder: Path) -> LazyTensors:
    """Opens the tensors of a diffusers model folder, one file or shards with their index.

    Raises:
        InputError: there are no safetensors weights, or the index is inconsistent.
    """
    single = folder / "diffusion_pytorch_model.safetensors"
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if single.is_file():
        return open_safetensors(single)
    if not index.is_file():
        raise InputError(
            f"'{folder}' has no {single.name} and no {index.name}; download the model again",
            code=ErrorCode.missing_weights,
            field=str(folder),
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(
            f"'{index}' has no weight_map of file names; download the model again",
            code=ErrorCode.malformed_file,
            field="weight_map",
        )
    shards = sorted(set(weight_map.values()))
    if not shards or any(Path(shard).name != shard for shard in shards):
        raise InputError(
            f"'{index}' names {'a file outside its folder' if shards else 'no files'}; download the model again",
            code=ErrorCode.malformed_file,
            field="weight_map",
        )
    stored = open_safetensors(*(folder / shard for shard in shards))
    if stored.shapes.keys() != weight_map.keys():
        raise InputError(
            f"'{index}' and its shards name different tensors; download the model again",
            code=ErrorCode.malformed_file,
            field="weight_map",
        )
    return stored


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source: str, hint: str
) -> None:
    """Validates that `found` has exactly the expected names and shapes.

    Raises:
        InputError: tensors are missing, unexpected or of another shape; names the first.
    """
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise InputError(
            f"{source}: {len(missing)} tensors are missing, the first is '{missing[0]}'; {hint}",
            code=ErrorCode.shape_mismatch,
            field=missing[0],
        )
    unexpected = sorted(found.keys() - expected.keys())
    if unexpected:
        raise InputError(
            f"{source}: {len(unexpected)} tensors are not known, the first is '{unexpected[0]}'; {hint}",
            code=ErrorCode.shape_mismatch,
            field=unexpected[0],
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"{source}: '{name}' has the shape {found[name]}, expected {shape}; {hint}",
                code=ErrorCode.shape_mismatch,
                field=name,
                value=found[name],
            )


def flatten_parts(loaded: Any, parts: Sequence[str], source: str) -> dict[str, Tensor]:
    """Flattens a torch file of named parts, with the parts as prefixes of the names.

    Raises:
        InputError: the parts are others, or contain anything but tensors.
    """
    if not isinstance(loaded, Mapping) or set(loaded) != set(parts):
        found = (
            ", ".join(map(str, loaded)) if isinstance(loaded, Mapping) and len(loaded) < 10 else type(loaded).__name__
        )
        raise InputError(
            f"'{source}' contains {found}; the released checkpoint contains {' and '.join(parts)}",
            code=ErrorCode.malformed_file,
            field=source,
        )
    flat = {}
    for part in parts:
        if not isinstance(loaded[part], Mapping):
            raise InputError(
                f"'{source}': {part} is a {type(loaded[part]).__name__}; named tensors are required",
                code=ErrorCode.malformed_file,
                field=part,
            )
        for name, value in loaded[part].items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"'{source}': {part}.{name} is a {type(value).__name__}; a tensor is required",
                    code=ErrorCode.malformed_file,
                    field=f"{part}.{name}",
                )
            flat[f"{part}.{name}"] = value
    return flat


def open_parts(path: str | Path, parts: Sequence[str]) -> LazyTensors:
    """Opens a released checkpoint, flat: a torch file of these parts, or safetensors with the parts as prefixes.

    Raises:
        InputError: the file is missing or damaged, has another suffix or, as a torch file, other parts.
    """
    path = existing_file(path, "checkpoint")
    if path.suffix in PICKLE_SUFFIXES:
        flat = flatten_parts(read_pickle(path, mapped=True), parts, str(path))
        return dequantized(LazyTensors.from_tensors(flat, str(path)))
    _check_suffix(path, f"'{path}'")
    return open_safetensors(path)


def write_parts(tensors: Mapping[str, Tensor], path: str | Path, parts: Sequence[str]) -> None:
    """Writes flat tensors as a torch file of these parts or as flat safetensors, atomically.

    Raises:
        InputError: the suffix is not supported.
    """
    path = Path(path)
    _check_suffix(path, f"output '{path}'")
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
            return
        nested: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            nested[part][rest] = value
        torch.save(nested, temporary)


def _check_suffix(path: Path, what: str) -> None:
    if path.suffix not in (*PICKLE_SUFFIXES, ".safetensors"):
        raise InputError(
            f"{what}: the suffix is '{path.suffix}'; {', '.join(PICKLE_SUFFIXES)} or .safetensors is required",
            code=ErrorCode.invalid_choice,
            field=str(path),
            value=path.suffix,
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor of any format has neither NaN nor infinity."""
    values = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no operations of its own
    return bool(torch.isfinite(values).all())


def check_finite_result(values: Tensor, what: str) -> None:
    """Validates that computed latents or pixels are finite, so that no video of other values is written.

    Raises:
        InputError: they have NaN or infinity.
    """
    if not is_finite(values):
        raise InputError(
            f"the generated {what} are not finite, so no video is written; weights are damaged, or too large for the "
            "dtype: leave out the LoRA or adapter, or set dtype=bfloat16 or float32",
            code=ErrorCode.out_of_range,
            field=what,
        )


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Validates that the tensors of a file are floating point and finite.

    Raises:
        InputError: names the first that is not.
    """
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise InputError(
                f"'{source}': '{name}' is {value.dtype}; floating-point weights are required",
                code=ErrorCode.invalid_type,
                field=name,
                value=value.dtype,
            )
        if not is_finite(value):
            raise InputError(
                f"'{source}': '{name}' holds NaN or infinity; the file is damaged, get it again",
                code=ErrorCode.malformed_file,
                field=name,
            )


def _dtype(name: str, tensor: str, path: Path) -> torch.dtype:
    if name not in SAFETENSORS_DTYPES:
        raise InputError(
            f"'{path}': the tensor '{tensor}' is {name}; {', '.join(SAFETENSORS_DTYPES)} are read",
            code=ErrorCode.unsupported,
            field=tensor,
            value=name,
        )
    return SAFETENSORS_DTYPES[name]


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(existing_file(path, "weights"), framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"'{path}' is not a readable safetensors file ({error}); get it again from its source",
            code=ErrorCode.malformed_file,
            field=str(path),
        ) from error

"""Writes random weights in the published layouts, chunk by chunk: no tensor is ever whole in memory."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from fantasytalking.common.files import report_write_errors
from fantasytalking.common.tensor_io import SAFETENSORS_DTYPES

CHUNK_NUMBERS = 1 << 22
"""Random numbers that are drawn once and repeated."""
SHARD_BYTES = 5 << 30
"""As of the published shards in diffusers' folders."""
DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
Shapes = Mapping[str, Sequence[int]]


def stored_bytes(shapes: Shapes, dtype: torch.dtype) -> int:
    """Returns the bytes of tensors on the disk, without the header."""
    return sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize


def write_shards(folder: Path, stem: str, shapes: Shapes, dtype: torch.dtype, alignment: int) -> None:
    """Writes a model folder's weights: STEM.safetensors, or shards of at most `SHARD_BYTES` with their index.

    Args:
        stem: diffusion_pytorch_model or model.
        alignment: as of `write_safetensors`.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    shards: list[dict[str, Sequence[int]]] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and stored_bytes({**shards[-1], name: shape}, dtype) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = shape
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", shapes, dtype, alignment)
        return
    files = {f"{stem}-{number:05}-of-{len(shards):05}.safetensors": part for number, part in enumerate(shards, 1)}
    for file, part in files.items():
        write_safetensors(folder / file, part, dtype, alignment)
    index = {
        "metadata": {"total_size": stored_bytes(shapes, dtype)},
        "weight_map": {name: file for file, part in files.items() for name in part},
    }
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, shapes: Shapes, dtype: torch.dtype, alignment: int) -> None:
    """Writes one file of random weights, of which norms are 1 and biases 0, so that what a model computes is finite.

    Args:
        alignment: the tensors begin at a multiple of these bytes, plus 8 where it is 8, as safetensors itself writes
            them: 64 lets them be computed with where they are mapped.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    first = -(-(8 + len(text)) // 64) * 64 + (8 if alignment == 8 else 0)
    text = text.ljust(first - 8)
    noise = torch.randn(CHUNK_NUMBERS, generator=torch.Generator().manual_seed(0))
    with report_write_errors(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            _write_tensor(file, name, shape, dtype, noise)


def _write_tensor(file: BinaryIO, name: str, shape: Sequence[int], dtype: torch.dtype, noise: torch.Tensor) -> None:
    count = math.prod(shape)
    if max(shape, default=1) == count:  # a vector: a norm's weight or a bias
        chunk = torch.full((min(count, CHUNK_NUMBERS),), 0.0 if name.endswith("bias") else 1.0)
    else:
        chunk = noise[:count] * math.prod(shape[1:]) ** -0.5
    raw = chunk.to(dtype).view(torch.uint8).numpy().tobytes()
    for _ in range(count // len(chunk)):
        file.write(raw)
    file.write(raw[: count % len(chunk) * dtype.itemsize])

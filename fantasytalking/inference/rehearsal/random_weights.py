"""Writes random weights in the published layouts, chunk by chunk: no tensor is ever whole in memory."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fantasytalking.common.files import report_write_errors
from fantasytalking.common.tensor_io import SAFETENSORS_DTYPES

CHUNK_NUMBERS = 1 << 22
"""Random numbers that are drawn once and repeated."""
SHARD_BYTES = 5 << 30
"""As of the published shards in diffusers' folders."""
DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
GGUF_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class RandomTensor(NamedTuple):
    """A tensor to be written."""

    shape: tuple[int, ...]
    kind: torch.dtype | str
    """dtype, or the name of a GGUF quantization."""
    mean: float
    deviation: float
    """Standard deviation; 0: every number is the mean."""

    @classmethod
    def of(cls, name: str, shape: Sequence[int], kind: torch.dtype | str) -> "RandomTensor":
        """Returns a parameter with which what a model computes is finite: norms are 1 and biases 0."""
        if max(shape, default=1) == math.prod(shape):  # a vector: a norm's weight or a bias
            return cls(tuple(shape), kind, 0.0 if name.endswith("bias") else 1.0, 0.0)
        return cls(tuple(shape), kind, 0.0, math.prod(shape[1:]) ** -0.5)

    @property
    def num_bytes(self) -> int:
        """Bytes on the disk."""
        count = math.prod(self.shape)
        if isinstance(self.kind, torch.dtype):
            return count * self.kind.itemsize
        block_size, block_bytes = _block(self.kind)
        return count // block_size * block_bytes


Tensors = Mapping[str, RandomTensor]


def write_shards(folder: Path, stem: str, tensors: Tensors, alignment: int) -> None:
    """Writes a model folder's weights: STEM.safetensors, or shards of at most `SHARD_BYTES` with their index.

    Args:
        stem: diffusion_pytorch_model or model.
        alignment: as of `write_safetensors`.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    shards: list[dict[str, RandomTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.num_bytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.num_bytes
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", tensors, alignment)
        return
    files = {f"{stem}-{number:05}-of-{len(shards):05}.safetensors": part for number, part in enumerate(shards, 1)}
    for file, part in files.items():
        write_safetensors(folder / file, part, alignment)
    index = {
        "metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors.values())},
        "weight_map": {name: file for file, part in files.items() for name in part},
    }
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: Tensors, alignment: int) -> None:
    """Writes one safetensors file of random weights.

    Args:
        alignment: the tensors begin at a multiple of these bytes, plus 8 where it is 8, as safetensors itself writes
            them: 64 lets them be computed with where they are mapped.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        assert isinstance(tensor.kind, torch.dtype), "safetensors has no blocks"
        end = start + tensor.num_bytes
        header[name] = {"dtype": DTYPE_NAMES[tensor.kind], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    first = -(-(8 + len(text)) // 64) * 64 + (8 if alignment == 8 else 0)
    text = text.ljust(first - 8)
    with report_write_errors(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        _write_tensors(file, tensors, 1)


def write_gguf(path: Path, tensors: Tensors, architecture: str) -> None:
    """Writes one GGUF file of random weights.

    Args:
        architecture: entry of its metadata: wan, t5encoder.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    import gguf

    with report_write_errors(path):
        writer = gguf.GGUFWriter(str(path), architecture)
        for name, tensor in tensors.items():
            kind = tensor.kind if isinstance(tensor.kind, str) else GGUF_DTYPE_NAMES[tensor.kind]
            writer.add_tensor_info(
                name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, gguf.GGMLQuantizationType[kind]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("ab") as file:
            file.write(bytes(-file.tell() % writer.data_alignment))
            _write_tensors(file, tensors, writer.data_alignment)


def _write_tensors(file: BinaryIO, tensors: Tensors, alignment: int) -> None:
    noise = torch.randn(CHUNK_NUMBERS, generator=torch.Generator().manual_seed(0))
    for tensor in tensors.values():
        left = tensor.num_bytes
        count = math.prod(tensor.shape)
        raw = _encoded(tensor.mean + tensor.deviation * noise[:count], tensor.kind)
        while left:
            left -= file.write(raw[: min(left, len(raw))])
        file.write(bytes(-tensor.num_bytes % alignment))


def _encoded(numbers: Tensor, kind: torch.dtype | str) -> bytes:
    if isinstance(kind, torch.dtype):
        return numbers.to(kind).view(torch.uint8).numpy().tobytes()
    import gguf

    block_size, _ = _block(kind)
    whole = numbers[: len(numbers) // block_size * block_size]
    return bytes(gguf.quants.quantize(whole.numpy()[None], gguf.GGMLQuantizationType[kind]).tobytes())


def _block(quantization: str) -> tuple[int, int]:
    """Returns numbers and bytes of a block of a GGUF quantization."""
    import gguf

    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[quantization]]
    return block_size, block_bytes

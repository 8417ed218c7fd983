"""Weights in single files of every format: values equal to those of independent readers, and nothing is trusted."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fantasytalking.common import stored_tensors
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import write_gguf, write_quantized_gguf

STANDARD = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS"]
K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
SHAPE = (3, 512)


def random_blocks(quantization: str) -> np.ndarray:
    """Blocks of chance whose scales, numbers of 16 bits, are finite."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    kind = gguf.GGMLQuantizationType[quantization]
    block_size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(list(quantization.encode()))
    blocks = random.integers(0, 256, (SHAPE[0], SHAPE[1] // block_size, num_bytes), dtype=np.uint8)
    scale = random.normal(0, 0.01, (*blocks.shape[:2], 1)).astype(np.float16).view(np.uint8)
    starts = {"Q6_K": [208], "Q3_K": [108], "Q2_K": [80, 82], "Q4_K": [0, 2], "Q5_K": [0, 2]}
    for start in starts.get(quantization, [0, 2] if quantization in ("Q4_1", "Q5_1") else [0]):
        blocks[:, :, start : start + 2] = scale
    return blocks.reshape(SHAPE[0], -1)


@pytest.mark.parametrize("quantization", [*STANDARD, *K_QUANTS])
def test_every_gguf_quantization_is_that_of_the_reference(tmp_path: Path, quantization: str) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    blocks = random_blocks(quantization)
    path = write_gguf(tmp_path / "file.gguf", {"x": blocks, "plain": np.ones(3, np.float32)}, x=quantization)
    stored = open_weights(path)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[quantization])
    assert stored.shapes == {"x": SHAPE, "plain": (3,)} and stored.dequantized_to is torch.float32
    np.testing.assert_allclose(stored.read("x").numpy(), expected, rtol=1e-6, atol=1e-9)


def test_plain_gguf_tensors_keep_their_dtype_and_axes(tmp_path: Path) -> None:
    bfloat16 = torch.randn(4, 2).bfloat16()
    arrays = {
        "half": np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2)).astype(np.float16),
        "brain": bfloat16.view(torch.uint8).numpy(),
    }
    stored = open_weights(write_gguf(tmp_path / "file.gguf", arrays, brain="BF16"))
    assert stored.dequantized_to is None and stored.dtypes == {"half": torch.float16, "brain": torch.bfloat16}
    assert torch.equal(stored.read("brain"), bfloat16)
    assert np.array_equal(stored.read("half").numpy(), arrays["half"])


def test_a_tensor_that_was_stored_with_other_axes_gets_its_own_back(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(str(tmp_path / "file.gguf"), "wan")
    values = np.arange(64, dtype=np.float32)
    writer.add_array("comfy.gguf.orig_shape.x", (8, 2, 4))
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_tensor("x", values.reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert np.array_equal(open_weights(tmp_path / "file.gguf").read("x").numpy(), values.reshape(8, 2, 4))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "one scale", "scale per row", "no scale"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_quantized_matrix_is_read_in_parts_with_the_same_values(
    tmp_path: Path, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_tensors, "MAX_DEQUANTIZED_VALUES", 128)
    values = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / ("file.gguf" if kind.startswith("Q") else "file.safetensors")
    if kind.startswith("Q"):
        write_quantized_gguf(path, {"x.weight": values}, kind)
    else:
        scale = {"one scale": torch.tensor(0.3), "scale per row": torch.arange(1.0, 6), "no scale": None}[kind]
        tensors = {"x.weight": values.to(torch.float8_e4m3fn), "x.scale_weight": scale}
        save_file({name: value for name, value in tensors.items() if value is not None}, path)
    stored = open_weights(path)
    assert "x.weight" in stored.quantized
    assert torch.equal(stored.read_as("x.weight", dtype), stored.read("x.weight").to(dtype))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor_entry(name: bytes = b"x", axes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)


def header(*tensors: bytes, metadata: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None) -> bytes:
    counts = counts or (len(tensors), len(metadata))
    content = struct.pack("<4sIQQ", b"GGUF", 3, *counts) + b"".join(metadata) + b"".join(tensors)
    return content + bytes(-len(content) % 32) + bytes(64)


LONG_LIST = text(b"tokens") + struct.pack("<IIQ", 9, 8, 1 << 62)
HOSTILE = {
    "empty": b"",
    "another format": b"GGML" + bytes(60),
    "old version": struct.pack("<4sIQQ", b"GGUF", 1, 0, 0),
    "many tensors": header(counts=(1 << 63, 0)),
    "many entries": header(counts=(0, 1 << 63)),
    "list of any length": header(metadata=(LONG_LIST,)),
    "numbers of any length": header(metadata=(text(b"n") + struct.pack("<IIQ", 9, 0, 1 << 63),)),
    "list of lists": header(metadata=(text(b"n") + struct.pack("<IIQ", 9, 9, 1),)),
    "name of any length": header(struct.pack("<Q", 1 << 63)),
    "name in no encoding": header(tensor_entry(b"\xff")),
    "huge tensor": header(tensor_entry(axes=(1 << 40, 1 << 40))),
    "many axes": header(tensor_entry(axes=(1,) * 9)),
    "outside the file": header(tensor_entry(offset=1 << 62)),
    "half a block": header(tensor_entry(axes=(16,), kind=8)),
    "overlapping": header(*(tensor_entry(b"%d" % number, (16,)) for number in range(9))),
    "one name twice": header(tensor_entry(), tensor_entry()),
    "alignment 0": header(tensor_entry(), metadata=(text(b"general.alignment") + struct.pack("<II", 4, 0),)),
    "another shape": header(
        tensor_entry(), metadata=(text(b"comfy.gguf.orig_shape.x") + struct.pack("<IIQi", 9, 5, 1, 7),)
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_gguf_header_is_not_trusted(tmp_path: Path, case: str) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    path = tmp_path / "file.gguf"
    path.write_bytes(HOSTILE[case])
    tracemalloc.start()
    with raises_input_error(ErrorCode.malformed_file):
        open_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_gguf_quantization_that_is_not_read_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    (tmp_path / "file.gguf").write_bytes(header(tensor_entry(axes=(256,), kind=16)))  # IQ2_XXS
    with raises_input_error(ErrorCode.unsupported, "x", 16):
        open_weights(tmp_path / "file.gguf")


def test_without_the_package_its_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fantasytalking.common.gguf_file.find_spec", lambda name: None)
    (tmp_path / "file.gguf").write_bytes(header(tensor_entry()))
    with raises_input_error(ErrorCode.unsupported, "gguf"):
        open_weights(tmp_path / "file.gguf")


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_torch_files_are_read_as_named_tensors(tmp_path: Path, wrapper: str | None, is_archive: bool) -> None:
    narrow = torch.float8_e4m3fn if is_archive else torch.bfloat16  # the old format has no float8
    values = {"a.weight": torch.randn(3, 4), "b": torch.randn(2).to(narrow)}
    content = values if wrapper is None else {wrapper: values}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=is_archive)
    stored = open_weights(tmp_path / "file.pth")
    assert torch.equal(stored.read("a.weight"), values["a.weight"])
    assert torch.equal(stored.read("b"), values["b"].bfloat16()), "float8 is read as numbers"


def test_parts_of_a_torch_file_are_prefixes(tmp_path: Path) -> None:
    torch.save({"proj_model": {"proj.weight": torch.ones(1)}, "head": torch.ones(2)}, tmp_path / "file.ckpt")
    assert open_weights(tmp_path / "file.ckpt").shapes == {"proj_model.proj.weight": (1,), "head": (2,)}


@pytest.mark.parametrize("content", [{"step": 3}, [torch.ones(1)], {"a": {"b": {"c": torch.ones(1)}}}])
def test_other_objects_in_a_torch_file_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "file.bin")
    with raises_input_error(ErrorCode.malformed_file):
        open_weights(tmp_path / "file.bin")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.invalid_choice, value=".onnx"):
        open_weights(tmp_path / "file.onnx")


def largest_reading(stored: LazyTensors) -> int:
    """Most bytes of Python and numpy that reading one tensor after another takes."""
    tracemalloc.start()
    for name in stored.shapes:
        stored.read(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_gguf_tensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    values = {f"x{number}": np.ones((256, 1024), np.float16) for number in range(16)}  # half a MiB each
    assert largest_reading(open_weights(write_gguf(tmp_path / "file.gguf", values))) < 1 << 20


def test_safetensors_are_read_by_the_same_door(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "file.safetensors")
    assert torch.equal(open_weights(tmp_path / "file.safetensors").read("x"), torch.ones(2))

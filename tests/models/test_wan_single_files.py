"""A Wan transformer in one file: every prefix, format and quantization that is published."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.wan_loading import build_from_wan, load_from_wan, open_wan_single_file
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import ONE_HEAD, original_names, scaled_float8, write_quantized_gguf
from tests.helpers.tiny_transformer import PORTRAIT, save_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(save_base(tmp_path_factory.mktemp("base"), **ONE_HEAD))


def assert_loads(path: Path, base: WanTransformer3DModel, expected: dict[str, Tensor]) -> None:
    """The transformer has the expected values (in Wan's names), in one dtype per layer."""
    model = load_from_wan(path, PORTRAIT, torch.float32)
    names = dict(zip(base.state_dict(), original_names(base), strict=True))
    state = model.state_dict()
    for ours, original in names.items():
        assert torch.equal(state[ours], expected[original].float()), ours


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_prefixes_of_other_programs(base: WanTransformer3DModel, tmp_path: Path, prefix: str, suffix: str) -> None:
    tensors = {name: value.bfloat16() for name, value in original_names(base).items()}
    stored, path = {prefix + name: value for name, value in tensors.items()}, tmp_path / f"wan{suffix}"
    if suffix == ".pth":
        torch.save(stored, path)
    else:
        save_file(stored, path)
    assert_loads(path, base, tensors)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("ending", [".scale_weight", ".weight_scale"])
def test_scaled_float8(base: WanTransformer3DModel, tmp_path: Path, prefix: str, ending: str) -> None:
    stored, expected = scaled_float8(original_names(base), ending)
    save_file({prefix + name: value for name, value in stored.items()}, tmp_path / "wan.safetensors")
    assert_loads(tmp_path / "wan.safetensors", base, expected)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_gguf(base: WanTransformer3DModel, tmp_path: Path, kind: str) -> None:
    expected = write_quantized_gguf(tmp_path / "wan.gguf", original_names(base), kind)
    assert_loads(tmp_path / "wan.gguf", base, expected)


def test_a_gguf_file_is_converted_to_a_diffusers_folder(base: WanTransformer3DModel, tmp_path: Path) -> None:
    expected = write_quantized_gguf(tmp_path / "wan.gguf", original_names(base))
    convert_checkpoint(tmp_path / "wan.gguf", tmp_path / "folder")
    converted = WanTransformer3DModel.from_pretrained(tmp_path / "folder")
    assert torch.equal(converted.blocks[0].attn1.to_q.weight, expected["blocks.0.self_attn.q.weight"])


def test_a_tensor_too_few_or_too_many_is_named(base: WanTransformer3DModel, tmp_path: Path) -> None:
    tensors = original_names(base)
    save_file({**tensors, "vace_blocks.0.before_proj.weight": torch.ones(1)}, tmp_path / "more.safetensors")
    with raises_input_error(ErrorCode.shape_mismatch, "vace_blocks.0.proj_in.weight"):
        load_from_wan(tmp_path / "more.safetensors", PORTRAIT)
    tensors.pop("blocks.0.cross_attn.k_img.weight")
    save_file(tensors, tmp_path / "fewer.safetensors")
    with raises_input_error(ErrorCode.shape_mismatch):
        load_from_wan(tmp_path / "fewer.safetensors", PORTRAIT)


def test_quantized_tensors_are_held_one_at_a_time(base: WanTransformer3DModel, tmp_path: Path) -> None:
    """Besides the model in its dtype, loading holds no more than the tensor that it reads, of a matrix some rows."""
    write_quantized_gguf(tmp_path / "wan.gguf", original_names(base))
    config, stored = open_wan_single_file(tmp_path / "wan.gguf")
    held: list[weakref.ref[Tensor]] = []

    def read(name: str) -> Tensor:
        assert not [one for one in held if one() is not None], "an earlier tensor is still held"
        value = stored.read(name)
        if ".attn" in name or ".ffn." in name:  # Wan keeps others in float32, which is how they are read
            held.append(weakref.ref(value))
        return value

    model = build_from_wan(config, PORTRAIT, replace(stored, read=read), torch.bfloat16)
    assert held and model.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16

"""Weights that stay as their file stores them: the predictions are those of the dequantized model."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter, save_adapter_state
from fantasytalking.checkpoints.adapter_formats import load_any_adapter
from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.checkpoints.lora_adapter import ScaledLora, apply_lora_files
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import ONE_HEAD, is_quantized, original_names, scaled_float8, write_quantized_gguf
from tests.helpers.tiny_transformer import PORTRAIT, randomize_zero_init, save_base, tiny_conditions, tiny_latents

LINEAR_LAYERS = 15
"""Of the base, except those that stay in float32 or have rows of other than whole blocks."""


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return original_names(WanTransformer3DModel.from_pretrained(save_base(tmp_path_factory.mktemp("base"), **ONE_HEAD)))


@pytest.fixture(scope="module")
def files(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for kind in ("Q8_0", "Q4_0"):
        write_quantized_gguf(folder / f"{kind}.gguf", tensors, kind)
    save_file(scaled_float8(tensors)[0], folder / "scaled.safetensors")
    stored = {
        name: value.to(torch.float8_e4m3fn) if is_quantized(name, value) else value for name, value in tensors.items()
    }
    save_file(stored, folder / "float8.safetensors")
    save_file(per_row_int8(tensors), folder / "int8.safetensors")
    save_file(tensors, folder / "plain.safetensors")
    return {path.stem: path for path in folder.iterdir()}


def per_row_int8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stored = {}
    for name, value in tensors.items():
        if is_quantized(name, value):
            scale = value.abs().amax(dim=1) / 127
            stored[name.removesuffix(".weight") + ".weight_scale"] = scale
            value = (value / scale[:, None]).round().to(torch.int8)
        stored[name] = value
    return stored


def load(path: Path, dtype: torch.dtype = torch.float32, keep: bool = True) -> FantasyTalkingTransformer3DModel:
    torch.manual_seed(0)
    model = load_from_wan(path, PORTRAIT, dtype, keep_quantized=keep)
    randomize_zero_init(model, 0.3)
    return model


@torch.no_grad()
def predict(model: FantasyTalkingTransformer3DModel) -> Tensor:
    (latents, timestep), conditions = tiny_latents(batch=1, frames=2), tiny_conditions(batch=1, frames=2)
    cast = {
        name: value.to(model.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in conditions._asdict().items()
    }
    return model(latents.to(model.dtype), timestep, type(conditions)(**cast)).sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["scaled", "float8", "int8"])
def test_scaled_weights_predict_the_bits_of_the_dequantized_model(
    files: dict[str, Path], kind: str, dtype: torch.dtype
) -> None:
    kept, dense = load(files[kind], dtype), load(files[kind], dtype, keep=False)
    assert len(stored_weight_names(kept)) >= LINEAR_LAYERS and not stored_weight_names(dense)
    assert kept.blocks[0].attn1.to_q.weight.itemsize == 1 and kept.dtype is dtype
    assert torch.equal(predict(kept), predict(dense))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_gguf_blocks_predict_as_the_dequantized_model(files: dict[str, Path], kind: str) -> None:
    """diffusers dequantizes them to float16, reading to float32."""
    kept, dense = load(files[kind]), load(files[kind], keep=False)
    assert len(stored_weight_names(kept)) == LINEAR_LAYERS
    found, expected = predict(kept), predict(dense)
    assert (found - expected).norm() < torch.finfo(torch.float16).eps * expected.norm()


def test_an_adapter_with_a_lora_is_loaded_beside_stored_weights(files: dict[str, Path], tmp_path: Path) -> None:
    trained = load(files["scaled"], keep=False)
    add_lora(trained, LoraSpec(2, 4.0, ("attn1.to_q", "ffn.net.2")), torch.float32)
    for name, value in trained.named_parameters():
        if ".lora_B." in name:
            value.data.normal_()
    described = AdapterConfig(
        ["audio", "face", "motion"], "seconds", lora=LoraSpec(2, 4.0, ("attn1.to_q", "ffn.net.2")).to_dict()
    )
    save_adapter(trained, tmp_path / "adapter", described)
    kept = load(files["scaled"])
    load_any_adapter(kept, tmp_path / "adapter")
    assert torch.equal(predict(kept), predict(trained))
    for refused in (kept.fuse_lora, lambda: kept.save_pretrained(tmp_path / "saved")):
        with raises_input_error(ErrorCode.unsupported, "optimizations.quantization", "stored"):
            refused()
    assert not (tmp_path / "saved").exists()


def test_trained_weights_of_the_base_do_not_replace_stored_ones(files: dict[str, Path], tmp_path: Path) -> None:
    dense, name = load(files["scaled"], keep=False), "blocks.0.attn1.to_q.weight"
    described = AdapterConfig(["motion"], "seconds", base_tensors=1)
    save_adapter_state(dense.state_dict(), tmp_path / "adapter", described, base_names=[name])
    with raises_input_error(ErrorCode.conflict, "optimizations.quantization", "stored"):
        load_any_adapter(load(files["scaled"]), tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["scaled", "Q8_0"])
def test_loras_are_added_beside_stored_weights(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    layer, torch_random = "diffusion_model.blocks.0.ffn.0", torch.Generator().manual_seed(0)
    pair = {
        f"{layer}.lora_down.weight": torch.randn(4, 128, generator=torch_random),
        f"{layer}.lora_up.weight": torch.randn(64, 4, generator=torch_random) / 8,
        f"{layer}.alpha": torch.tensor(2.0),
        f"{layer}.diff_b": torch.ones(64),
    }
    save_file(pair, tmp_path / "pair.safetensors")
    save_file({"diffusion_model.blocks.0.ffn.2.diff_b": torch.ones(128)}, tmp_path / "bias.safetensors")
    loras = [ScaledLora(tmp_path / "pair.safetensors", 0.5), ScaledLora(tmp_path / "bias.safetensors", 2.0)]
    kept, dense = load(files[kind]), load(files[kind], keep=False)
    before = predict(kept)
    for model in (kept, dense):
        apply_lora_files(model, loras)
    found, expected = predict(kept), predict(dense)
    assert (found - expected).norm() < 1e-3 * (expected - before).norm()
    assert len(stored_weight_names(kept)) >= LINEAR_LAYERS


@pytest.mark.parametrize("kind", ["scaled", "Q8_0"])
def test_stored_weights_are_offloaded_by_groups(files: dict[str, Path], kind: str) -> None:
    model = load(files[kind])
    expected = predict(model)
    cpu = torch.device("cpu")
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert torch.equal(predict(model), expected)


def test_a_file_without_quantized_layers_keeps_none(files: dict[str, Path]) -> None:
    with raises_input_error(ErrorCode.conflict, "optimizations.quantization", "stored"):
        load(files["plain"])

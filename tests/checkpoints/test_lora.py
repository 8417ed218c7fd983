"""Adapters with a LoRA or trained base tensors: written, read back exactly, and rejected if they do not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.checkpoints.adapter import (
    BASE_FILE,
    LORA_FILE,
    AdapterConfig,
    load_adapter,
    read_adapter,
    save_adapter,
    save_adapter_state,
    trained_base_names,
)
from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.checkpoints.lora import LoraSpec, add_lora, lora_tensor_shapes
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

SETTINGS = LoraSpec(4, 8.0, ("attn1.to_q", "attn2.to_out.0", "ffn.net.2"))


def forward(model: FantasyTalkingTransformer3DModel) -> torch.Tensor:
    latents, timestep = tiny_latents()
    with torch.no_grad():
        return model(latents, timestep, tiny_conditions()).sample


def with_lora(seed: int = 0) -> FantasyTalkingTransformer3DModel:
    """A model whose LoRA is not zero."""
    model = tiny_transformer(seed)
    add_lora(model, SETTINGS, torch.float32)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    config = AdapterConfig(["audio", "face", "motion"], "seconds", lora=SETTINGS.to_dict())
    save_adapter(with_lora(), tmp_path / "adapter", config)
    return tmp_path / "adapter"


def test_a_new_lora_adds_nothing():
    model = tiny_transformer()
    before = forward(model)
    add_lora(model, SETTINGS, torch.float32)
    assert torch.equal(forward(model), before)


def test_a_lora_is_read_back_exactly(adapter: Path):
    model = tiny_transformer(0)
    fresh = forward(model)
    load_adapter(model, adapter)
    assert torch.equal(forward(model), forward(with_lora()))
    assert not torch.allclose(forward(model), fresh, atol=1e-3)


def test_the_file_has_names_without_peft(adapter: Path):
    shapes = {name: tuple(value.shape) for name, value in load_file(adapter / LORA_FILE).items()}
    assert shapes == lora_tensor_shapes(tiny_transformer(), SETTINGS)
    assert shapes["blocks.0.attn1.to_q.lora_A.weight"] == (4, 48)
    assert shapes["blocks.2.ffn.net.2.lora_B.weight"] == (48, 4)
    assert not any("lora" in name for name in load_file(adapter / "adapter.safetensors"))


def test_a_lora_of_another_shape_changes_nothing(adapter: Path):
    model = tiny_transformer(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = load_file(adapter / LORA_FILE)
    tensors["blocks.0.attn1.to_q.lora_A.weight"] = torch.zeros(5, 48)
    save_file(tensors, adapter / LORA_FILE)
    with raises_input_error(ErrorCode.shape_mismatch, "blocks.0.attn1.to_q.lora_A.weight", (5, 48)) as error:
        load_adapter(model, adapter)
    assert "(4, 48)" in str(error.value)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_second_lora_is_rejected(adapter: Path):
    with raises_input_error(ErrorCode.conflict, "lora", SETTINGS.to_dict()):
        load_adapter(with_lora(), adapter)


@pytest.mark.parametrize(
    ("lora", "code"),
    [
        ({"rank": 4}, ErrorCode.malformed_file),
        ({"rank": 0, "alpha": 1, "targets": ["a"]}, ErrorCode.out_of_range),
        ({"rank": 4, "alpha": 1, "targets": "all"}, ErrorCode.out_of_range),
        ([], ErrorCode.malformed_file),
    ],
)
def test_invalid_lora_settings_are_rejected(adapter: Path, lora: object, code: ErrorCode):
    values = json.loads((adapter / "config.json").read_text())
    (adapter / "config.json").write_text(json.dumps({**values, "lora": lora}))
    with raises_input_error(code, "lora", lora):
        read_adapter(adapter)


@pytest.mark.parametrize("target", ["attn3.to_q", "norm_out"])
def test_targets_must_be_linear_layers(target: str):
    with raises_input_error(ErrorCode.unknown_key, "targets", target):
        add_lora(tiny_transformer(), LoraSpec(4, 8.0, (target,)), torch.float32)


def test_trained_tensors_of_the_base_are_read_back_exactly(tmp_path: Path):
    trained, names = tiny_transformer(), ["blocks.0.attn1.to_q.weight", "proj_out.bias"]
    with torch.no_grad():
        for name in names:
            trained.get_parameter(name).add_(0.1)
    config = AdapterConfig(["audio", "face", "motion"], "seconds", base_tensors=2)
    save_adapter_state(trained.state_dict(), tmp_path / "adapter", config, base_names=names)
    model = tiny_transformer()
    load_adapter(model, tmp_path / "adapter")
    assert torch.equal(forward(model), forward(trained))
    assert trained_base_names(tmp_path / "adapter") == names

    tensors = load_file(tmp_path / "adapter" / BASE_FILE)
    save_file({"proj_out.bias": tensors["proj_out.bias"]}, tmp_path / "adapter" / BASE_FILE)
    with raises_input_error(ErrorCode.shape_mismatch, "base_tensors", 1) as error:
        load_adapter(model, tmp_path / "adapter")
    assert "config.json is 2" in str(error.value)
    save_file({**tensors, "proj_out.scale": torch.zeros(1)}, tmp_path / "adapter" / BASE_FILE)
    with raises_input_error(ErrorCode.shape_mismatch, "base_tensors", 3):
        load_adapter(model, tmp_path / "adapter")


def test_the_released_format_cannot_store_a_lora(adapter: Path, tmp_path: Path):
    with raises_input_error(ErrorCode.unsupported, "lora"):
        convert_checkpoint(adapter, tmp_path / "released.safetensors")

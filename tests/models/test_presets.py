"""The presets on the meta device: names and shapes of base and adapter parameters."""

import time

import pytest
import torch
from diffusers import WanTransformer3DModel

from fantasytalking.common.config import preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.presets import build_meta_transformer, load_model_config, model_presets, transformer_kwargs
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from tests.helpers.errors import raises_input_error

# Tensors in the published checkpoints: Wan2.1-I2V-14B has 1303, Wan2.1-Fun-1.3B-InP 983.
PUBLISHED = {"wan14b": 1303, "wan1.3b": 983}


@pytest.mark.parametrize("preset", model_presets())
def test_every_parameter_belongs_to_wan_or_to_a_module(preset):
    start = time.perf_counter()
    config = load_model_config(preset)
    model = build_meta_transformer(config)
    assert time.perf_counter() - start < 10
    names = set(model.state_dict())
    base_names = {name for name in names if adapter_module_of(name) is None}
    portrait_keys = vars(config.portrait).keys()
    with torch.device("meta"):
        base = WanTransformer3DModel(
            **{key: value for key, value in transformer_kwargs(config).items() if key not in portrait_keys}
        )
    assert base_names == set(base.state_dict())
    assert len(base_names) == PUBLISHED.get(preset, len(base_names))
    assert {adapter_module_of(name) for name in names - base_names} == {"audio", "face", "motion"}
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_transformer_may_have_patches_of_single_latent_cells(tmp_path):
    path = tmp_path / "model.yaml"
    text = preset_path("nano", "model").read_text().replace("wan:", "vae: {scale_factor_spatial: 16}\nwan:")
    path.write_text(text.replace("ffn_dim", "patch_size: [1, 1, 1]\n  ffn_dim"))
    config = load_model_config(str(path))
    assert config.geometry == LatentGeometry(16, 4, 1) and config.geometry.token_pixels == 16
    state = build_meta_transformer(config).state_dict()
    assert state["patch_embedding.weight"].shape == (256, 68, 1, 1, 1) and state["proj_out.weight"].shape == (32, 256)
    path.write_text(text.replace("ffn_dim", "patch_size: [2, 2, 2]\n  ffn_dim"))
    with raises_input_error(ErrorCode.unsupported, "patch_size", (2, 2, 2)):
        load_model_config(str(path))


def test_wan14b_has_the_released_adapters_shapes():
    """fantasytalking_model.ckpt: 40 blocks of two 2048 -> 5120 projections, a 768 -> 2048 projector."""
    state = build_meta_transformer(load_model_config("wan14b")).state_dict()
    audio = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) == "audio"}
    assert len(audio) == 83
    assert audio["blocks.39.attn2.audio_k_proj.weight"] == (5120, 2048)
    assert audio["audio_projector.proj.weight"] == (2048, 768)


def test_wan14b_has_the_released_portrait_adapters_shapes():
    """40 blocks of two 2048 -> 5120 projections, four plain ones with a norm, two resamplers of width 1280, depth 4."""
    config = load_model_config("wan14b")
    config.portrait.expression = {"dims": [6, 6, 30, 512]}
    config.portrait.validate()
    state = build_meta_transformer(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) == "expression"}
    assert len(shapes) == 40 * 2 + 6 + 2 * (7 + 4 * 11)
    assert shapes["blocks.39.attn2.expression_k_proj.weight"] == (5120, 2048)
    assert shapes["expression_projector.learned.mouth.queries"] == (1, 16, 1280)
    assert shapes["expression_projector.learned.emotion.layers.3.to_key_value.weight"] == (2560, 1280)
    config.portrait.expression["padding"] = "ignored"
    with raises_input_error(ErrorCode.invalid_choice, "expression.padding", "ignored"):
        config.portrait.validate()


def test_a_missing_base_is_reported_with_the_download_command(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with raises_input_error(ErrorCode.missing_weights, "base", "Wan-AI/nowhere") as error:
        load_from_wan("Wan-AI/nowhere")
    assert "hf download Wan-AI/nowhere --local-dir" in str(error.value)

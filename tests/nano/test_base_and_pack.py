"""Tests of the base transformer and of the packed pipeline."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fantasytalking.checkpoints.adapter import BASE_FILE, AdapterConfig, save_adapter, save_adapter_state
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.presets import ModelConfig, load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from fantasytalking.nano.config import MAX_PIPELINE_BYTES
from fantasytalking.nano.pack import check_pipeline_size, write_pipeline
from fantasytalking.nano.trainers.base_transformer import build_base, write_fresh_base, write_trained_base
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import build_components

Packed = tuple[Path, FantasyTalkingTransformer3DModel]


@pytest.fixture(scope="module")
def small() -> ModelConfig:
    nano = load_model_config("nano")
    wan = replace(nano.wan, num_layers=1, num_attention_heads=2, attention_head_dim=12, ffn_dim=32, text_dim=32)
    return replace(nano, wan=replace(wan, image_dim=32))


def test_untrained_base_predicts_zero_and_loads_as_a_portrait_model(small: ModelConfig, tmp_path: Path) -> None:
    write_fresh_base(small, 0, tmp_path)
    before = (tmp_path / "transformer" / "config.json").stat().st_mtime_ns
    write_fresh_base(small, 0, tmp_path)
    assert (tmp_path / "transformer" / "config.json").stat().st_mtime_ns == before, "written once"
    model = load_from_wan(tmp_path, asdict(small.portrait))
    assert not model.proj_out.weight.any() and model.config["audio_dim"] == small.portrait.audio_dim
    assert torch.equal(model.patch_embedding.weight, build_base(small, 0).patch_embedding.weight)


def test_trained_base_weights_are_written_as_the_base(small: ModelConfig, tmp_path: Path) -> None:
    write_fresh_base(small, 0, tmp_path / "fresh")
    model = load_from_wan(tmp_path / "fresh", asdict(small.portrait))
    names = [name for name, _ in model.named_parameters() if adapter_module_of(name) is None]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in names:
                value.add_(0.25)
    described = AdapterConfig([], "seconds", base_tensors=len(names))
    save_adapter_state(model.state_dict(), tmp_path / "adapter", described, base_names=names)
    assert len(load_file(tmp_path / "adapter" / BASE_FILE)) == len(names)
    write_trained_base(small, tmp_path / "adapter", tmp_path / "components")
    again = load_from_wan(tmp_path / "components", asdict(small.portrait), torch.float32)
    for name, value in model.state_dict().items():
        if adapter_module_of(name) is None:
            assert torch.allclose(value, again.state_dict()[name], atol=2e-3), name


@pytest.fixture(scope="module")
def packed(
    small: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FantasyTalkingTransformer3DModel]:
    folder = tmp_path_factory.mktemp("pack")
    components = build_components(folder / "components", audio_dim=small.portrait.audio_dim)
    write_fresh_base(small, 0, components)
    model = load_from_wan(components, asdict(small.portrait))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if adapter_module_of(name):
                value.normal_(generator=torch.Generator().manual_seed(len(name)))
    save_adapter(model, folder / "adapter", AdapterConfig(["audio", "face", "motion"], "seconds"))
    normaliser = folder / "motion_normaliser.json"
    normaliser.write_text('{"expression_low": 0.1, "expression_high": 1.0, "body_low": 0.1, "body_high": 1.0}')
    write_pipeline(components, folder / "adapter", normaliser, folder / "nano", asdict(small.portrait), 16, 2.0)
    return folder / "nano", model


def test_one_folder_loads_as_pipeline_components_and_base(packed: Packed, small: ModelConfig) -> None:
    folder, model = packed
    pipeline = FantasyTalkingPipeline.from_pretrained(folder)
    assert pipeline.config.text_length == 16 and pipeline.trained_modules == ["audio", "face", "motion"]
    assert pipeline.face_encoder_path is not None and pipeline.motion_normalizer is not None
    assert (folder / "audio_encoder" / "preprocessor_config.json").is_file(), "prepare_data reads it there"
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.allclose(value, model.state_dict()[name], atol=4e-3, rtol=1e-3), name
    base = load_from_wan(folder, asdict(small.portrait), torch.float32)
    assert torch.allclose(base.patch_embedding.weight, model.patch_embedding.weight, atol=1e-3)
    fresh = [
        name for name, value in base.named_parameters() if name.endswith("audio_v_proj.weight") and not value.any()
    ]
    assert len(fresh) == 1, "of the portrait transformer the base alone is taken"


def test_all_weights_are_stored_in_half_precision(packed: Packed) -> None:
    files = sorted(packed[0].rglob("*.safetensors"))
    assert len(files) == 5
    for file in files:
        assert {value.dtype for value in load_file(file).values() if value.is_floating_point()} == {torch.float16}


def test_a_pipeline_above_the_size_limit_is_rejected(tmp_path: Path) -> None:
    check_pipeline_size(MAX_PIPELINE_BYTES, tmp_path)
    with raises_input_error(ErrorCode.out_of_range, "output", MAX_PIPELINE_BYTES + 1):
        check_pipeline_size(MAX_PIPELINE_BYTES + 1, tmp_path)


def test_a_pipeline_above_the_size_limit_is_not_written(packed: Packed, small: ModelConfig, tmp_path: Path) -> None:
    source = packed[0].parent
    onnx = source / "components" / "face_encoder" / "tiny.onnx"
    kept = onnx.read_bytes()
    try:
        onnx.write_bytes(kept + bytes(MAX_PIPELINE_BYTES))
        with raises_input_error(ErrorCode.out_of_range, "output"):
            write_pipeline(
                source / "components",
                source / "adapter",
                source / "motion_normaliser.json",
                tmp_path / "nano",
                asdict(small.portrait),
                16,
                2.0,
            )
    finally:
        onnx.write_bytes(kept)
    assert not list(tmp_path.iterdir())


def test_an_adapter_without_modules_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="modules is"):
        AdapterConfig([], "seconds").validate("here")

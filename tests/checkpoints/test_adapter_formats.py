"""Released files and their ports as adapters: for inference, for training, and converted."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fantasytalking.checkpoints.adapter_formats import describe_adapter, load_any_adapter
from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.checkpoints.released_audio import to_released_audio
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.expression import ExpressionEncoder, copy_expression_encoder
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from fantasytalking.pipeline.loading.stored_model import StoredModel
from fantasytalking.training.model_setup import load_initial_weights
from tests.checkpoints.test_expression_adapter import expression_of, expressive
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import acvlab, audio_of, kijai, portrait_with_encoder, wan2gp, wan2gp_with_prefix
from tests.helpers.tiny_pipeline import adapters, base, one_thread
from tests.helpers.tiny_transformer import randomize_zero_init, tiny_transformer

__all__ = ["adapters", "base", "one_thread"]

Writer = Callable[[dict[str, Tensor], Path], Path]


@pytest.mark.parametrize("write", [acvlab, kijai, wan2gp, wan2gp_with_prefix])
def test_every_form_of_the_audio_weights(tmp_path: Path, write: Writer) -> None:
    audio = audio_of(tiny_transformer(seed=5))
    path = write(to_released_audio(audio), tmp_path)
    model = tiny_transformer(seed=9)
    others = {name: value.clone() for name, value in model.state_dict().items() if adapter_module_of(name) != "audio"}
    assert load_any_adapter(model, path) == ["audio"]
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in audio.items())
    assert all(torch.equal(state[name], value) for name, value in others.items())
    described = describe_adapter(path)
    assert described.modules == ["audio"] and described.audio_window == "official"
    convert_checkpoint(path, tmp_path / "adapter")
    converted = load_file(tmp_path / "adapter/adapter.safetensors")
    assert all(torch.equal(converted[name].float(), value) for name, value in audio.items())
    convert_checkpoint(tmp_path / "adapter", tmp_path / "back.ckpt")
    assert load_any_adapter(model, tmp_path / "back.ckpt") == ["audio"]


def test_positions_of_a_model_that_has_them_are_zero(tmp_path: Path) -> None:
    model = tiny_transformer(seed=9, audio_positions=15)
    path = kijai(to_released_audio(audio_of(tiny_transformer(seed=5))), tmp_path)
    load_any_adapter(model, path)
    assert not model.audio_projector.positions.any()


def test_half_of_wan2gps_weights_is_refused(tmp_path: Path) -> None:
    path = wan2gp(to_released_audio(audio_of(tiny_transformer())), tmp_path)
    with raises_input_error(ErrorCode.shape_mismatch):
        describe_adapter(tmp_path / "fantasy_proj_model.safetensors")
    (tmp_path / "fantasy_proj_model.safetensors").unlink()
    with raises_input_error(ErrorCode.shape_mismatch, "proj_model.norm.bias") as error:
        describe_adapter(path)
    assert "fantasy_proj_model.safetensors" in str(error.value)


def test_weights_for_another_model_change_nothing(tmp_path: Path) -> None:
    path = kijai(to_released_audio(audio_of(tiny_transformer())), tmp_path)
    model = tiny_transformer(num_layers=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with raises_input_error(ErrorCode.shape_mismatch):
        load_any_adapter(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_starts_from_a_port(tmp_path: Path) -> None:
    audio = audio_of(tiny_transformer(seed=5))
    path = kijai(to_released_audio(audio), tmp_path)
    model = tiny_transformer(seed=9)
    assert load_initial_weights(model, path, "base").modules == ["audio"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in audio.items())


@pytest.mark.parametrize("write", [kijai, wan2gp])
def test_inference_takes_a_released_file_as_its_adapter(base: Path, tmp_path: Path, write: Writer) -> None:
    source = load_from_wan(base, asdict(load_model_config("nano").portrait))
    randomize_zero_init(source, 0.3)
    audio = audio_of(source)
    path = write(to_released_audio(audio), tmp_path)
    overrides = [f"base={base}", f"adapter={path}", "device=cpu", "face_encoder=null"]
    config = load_config(InferConfig, preset_path("nano", "infer"), overrides)
    model = resolve_model(config)
    assert model.facts.trained_modules == ("audio",) and model.stored.audio_window[0] == "official"
    assert ("adapter_projector" in model.paths) is (write is wan2gp), "both files belong to the record"
    state = load_pipeline(config, model).transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in audio.items())


def test_a_portrait_adapter_with_its_encoder(tmp_path: Path) -> None:
    path, expression, network = portrait_with_encoder(expression_of(expressive()), tmp_path)
    model = tiny_transformer(seed=9)
    assert load_any_adapter(model, path) == ["expression"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expression.items())
    assert describe_adapter(path).modules == ["expression"]
    assert StoredModel.read("base", path).expression_encoder == path, "the file is the encoder, too"
    copy_expression_encoder(path, tmp_path / "copy")
    assert len(load_file(tmp_path / "copy/pd_fpg.safetensors")) == len(network.state_dict()) + 1
    for source in (path, tmp_path / "copy"):
        found = ExpressionEncoder.from_pretrained(source).network.state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(found[name], value) or "num_batches_tracked" in name, name

"""Missing weights: one line with the command, the size and the licence of each."""

import json
import shutil
from pathlib import Path

import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.download_hints import DOWNLOAD_HINTS
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.models.presets import model_presets
from fantasytalking.training.config import TrainConfig
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT


def config_of_preset(preset: str, *overrides: str) -> InferConfig:
    return load_config(InferConfig, preset_path(preset, "infer"), overrides)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, nothing beside the package, and an empty cache of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fantasytalking.common.resources.ROOT", tmp_path / "package")
    shutil.copytree(ROOT / "configs", tmp_path / "package" / "configs")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("preset", model_presets())
def test_every_preset_names_how_to_get_its_weights(preset, elsewhere):
    config = config_of_preset(preset)
    with raises_input_error(ErrorCode.missing_weights) as error:
        resolve_model(config)
    message = str(error.value)
    assert "\n" not in message and message.startswith("weights are missing")
    named = [place for place in (config.adapter, config.audio_encoder, config.face_encoder) if place]
    if preset == "nano":
        named = ["checkpoints/nano"]
    for place in named:
        source = DOWNLOAD_HINTS[place]
        assert f"'{place}': {source.command} ({source.size}, {source.license})" in message


def test_the_few_step_lora_is_named_with_its_command(elsewhere):
    config = load_config(InferConfig, preset_path("wan14b", "fast"))
    assert config.num_inference_steps == 4 and config.optimizations.few_step_lora is not None
    with raises_input_error(ErrorCode.missing_weights) as error:
        resolve_model(config)
    assert DOWNLOAD_HINTS[config.optimizations.few_step_lora].command in str(error.value)


def test_nano_is_one_thing_to_make(elsewhere):
    with raises_input_error(ErrorCode.missing_weights, "base") as error:
        resolve_model(config_of_preset("nano"))
    assert str(error.value).count("build-nano") == 1 and "adapter" not in str(error.value)


def test_a_download_into_checkpoints_is_found(elsewhere):
    for name in ("Wan2.1-I2V-14B-720P-Diffusers", "wav2vec2-base-960h", "fantasytalking_audio"):
        (elsewhere / "checkpoints" / name).mkdir(parents=True)
    (elsewhere / "checkpoints" / "wav2vec2-base-960h" / "config.json").write_text('{"model_type": "wav2vec2"}')
    (elsewhere / "checkpoints" / "Wan2.1-I2V-14B-720P-Diffusers" / "vae").mkdir()
    (elsewhere / "checkpoints" / "Wan2.1-I2V-14B-720P-Diffusers" / "vae" / "config.json").write_text("{}")
    adapter = {"modules": ["audio"], "audio_window": "official"}
    (elsewhere / "checkpoints" / "fantasytalking_audio" / "config.json").write_text(json.dumps(adapter))
    (elsewhere / "checkpoints" / "fantasytalking_audio" / "adapter.safetensors").touch()
    model = resolve_model(config_of_preset("wan14b", "dtype=float32", "offload=none"))
    assert model.stored.base == Path("checkpoints/Wan2.1-I2V-14B-720P-Diffusers")
    assert model.audio_encoder == Path("checkpoints/wav2vec2-base-960h") and model.face_encoder is None
    assert model.facts.trained_modules == ("audio",) and model.facts.geometry == WAN21_GEOMETRY


def test_a_hub_id_of_one_s_own_and_a_path(elsewhere):
    with pytest.raises(InputError, match="hf download somebody/model --local-dir checkpoints/model"):
        resolve_model(config_of_preset("nano", "base=somebody/model"))
    with raises_input_error(ErrorCode.missing_weights, "base", "./nowhere"):
        resolve_model(config_of_preset("nano", "base=./nowhere"))


def test_a_base_without_adapter_is_refused(base):
    with raises_input_error(ErrorCode.conflict, "adapter", str(base)):
        resolve_model(config_of_preset("nano", f"base={base}", "adapter=null"))


def test_a_saved_pipeline_needs_nothing_else(saved):
    model = resolve_model(config_of_preset("nano", f"base={saved}", "adapter=null"))
    assert model.paths == {"base": saved}
    assert model.facts.trained_modules == ("audio", "face", "motion") and model.facts.has_face_encoder


@pytest.mark.parametrize("preset", model_presets())
def test_inference_is_set_as_training_was(preset):
    """Frame rate, length, sizes and text as in the presets of data and training."""
    infer = config_of_preset(preset)
    data = load_config(PreparationConfig, preset_path(preset, "data"))
    stage = load_config(TrainConfig, preset_path(preset, "stage2"))
    assert (infer.model, infer.fps, infer.window_frames, infer.sizes) == (preset, data.fps, data.frames, data.buckets)
    assert infer.max_text_tokens == stage.data.max_text_tokens


def test_several_speakers_take_an_adapter_that_changes_speech_and_no_encoder(saved: Path, expressive: Path, tmp_path):
    config = InferConfig(base=str(saved), expression_adapter=str(expressive))
    assert resolve_model(config, has_driving_video=True).stored.expression_adapter == expressive
    several = resolve_model(config, is_multi_speaker=True)
    assert several.stored.expression_adapter is None, "it drives faces alone"
    speaking = shutil.copytree(expressive, tmp_path / "speaking")
    described = json.loads((speaking / "config.json").read_text())
    (speaking / "config.json").write_text(json.dumps(described | {"modules": ["audio", "expression"]}))
    config = InferConfig(base=str(saved), expression_adapter=str(speaking))
    several = resolve_model(config, is_multi_speaker=True)
    assert (several.stored.expression_adapter, several.expression_encoder) == (speaking, None)
    assert resolve_model(config).stored.expression_adapter is None, "one voice needs none of it"
    driven = resolve_model(config, has_driving_video=True)
    assert driven.paths_used(has_driving_video=False).keys() == {"base", "expression_adapter"}

"""Audio encoders of every kind: what they return, when their tokens are, how they are told apart, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE, check_same_encoder
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.audio_loading import (
    audio_encoder_from_components,
    load_audio_encoder,
    read_audio_encoder_spec,
)
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_audio_encoders import MODELS, save_audio_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("audio_encoders")
    return {name: save_audio_encoder(folder / name, name) for name in MODELS}


@pytest.fixture(params=list(MODELS))
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture
def encoder(folder: Path) -> AudioEncoder:
    return load_audio_encoder(folder)


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * AUDIO_SAMPLE_RATE))
    return samples.astype(np.float32)


def test_features_are_those_of_the_transformers_model(folder: Path, encoder: AudioEncoder) -> None:
    samples = noise(1.3)
    inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=16_000, return_tensors="pt")
    whole = AutoModel.from_pretrained(folder).eval()
    model = whole.encoder if whole.config.model_type == "whisper" else whole
    with torch.no_grad():
        expected = model(next(iter(inputs.values()))).last_hidden_state[0]
    features = encoder.encode(samples)
    assert features.shape == (encoder.token_count(len(samples)), encoder.dim) == (len(features), 16)
    torch.testing.assert_close(features, expected[: len(features)], atol=1e-5, rtol=1e-4)


def test_a_click_is_in_the_token_that_is_centered_on_it(encoder: AudioEncoder) -> None:
    samples = noise(1.0) * 0.05
    silent = encoder.encode(samples)
    centers = encoder.timing.centers(len(silent))
    for token in (5, 20, 41):
        clicked = samples.copy()
        clicked[round(centers[token] * AUDIO_SAMPLE_RATE)] += 0.2
        difference = (encoder.encode(clicked) - silent).norm(dim=1)
        assert int(difference.argmax()) == token
        early, late = difference[token - 1].item(), difference[token + 1].item()
        assert max(early, late) < 0.9 * difference[token].item(), "the click is not between two tokens"


def test_the_configuration_says_what_the_model_is(folder: Path, encoder: AudioEncoder) -> None:
    described = read_audio_encoder_spec(folder)
    assert not described.weights and 0 < len(encoder.spec.weights) <= 16
    assert (described.kind, described.dim, described.timing) == (encoder.spec.kind, 16, encoder.timing)
    assert described.kind == json.loads((folder / "config.json").read_text())["model_type"]
    assert encoder.timing.tokens_per_second == 50 and encoder.stride == 320


def test_a_saved_copy_in_half_precision_is_the_same_encoder(encoder: AudioEncoder, tmp_path: Path) -> None:
    before = encoder.spec
    encoder.model.half().save_pretrained(tmp_path)
    encoder.feature_extractor.save_pretrained(tmp_path)
    copy = load_audio_encoder(tmp_path)
    check_same_encoder(copy.spec, before, "the copy is", "")
    assert copy.encode(noise(0.5)).isfinite().all()
    assert type(audio_encoder_from_components(copy.model, copy.feature_extractor)) is type(encoder)


def test_other_weights_of_the_same_size_are_another_encoder(
    folder: Path, encoder: AudioEncoder, tmp_path: Path
) -> None:
    other = load_audio_encoder(save_audio_encoder(tmp_path, folder.name, seed=1)).spec
    with raises_input_error(ErrorCode.conflict, "audio_encoder", other.weights):
        check_same_encoder(other, encoder.spec, "this is", "use the other")


def test_only_the_encoder_of_whisper_is_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = load_audio_encoder(folders["whisper"])
    encoder.model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert names and all(name.startswith("encoder.") for name in names)


@pytest.mark.parametrize("kind", ["bert", None, ["whisper"], 7])
def test_other_kinds_are_refused(folders: dict[str, Path], tmp_path: Path, kind: object) -> None:
    changed = Path(shutil.copytree(folders["hubert"], tmp_path / "model"))
    (changed / "config.json").write_text(json.dumps({"model_type": kind}))
    for read in (load_audio_encoder, read_audio_encoder_spec):
        with raises_input_error(ErrorCode.unsupported, "audio_encoder", kind) as error:
            read(changed)
        assert "wav2vec2, hubert, wavlm, whisper" in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "values", "value"),
    [
        ("hubert", "preprocessor_config.json", {"sampling_rate": 8000}, 8000),
        ("whisper", "preprocessor_config.json", {"sampling_rate": 48_000}, 48_000),
        ("whisper", "preprocessor_config.json", {"hop_length": 80}, 80),
        ("whisper", "preprocessor_config.json", {"n_fft": 2**20}, 2**20),
        ("whisper", "preprocessor_config.json", {"feature_size": "80"}, "80"),
        ("whisper", "preprocessor_config.json", {"chunk_length": 31}, 31),
        ("whisper", "preprocessor_config.json", {"chunk_length": 15}, (80, 15)),
        ("whisper", "preprocessor_config.json", {"feature_size": 128}, (128, 30)),
        ("whisper", "preprocessor_config.json", {"dither": 1e-3}, 1e-3),
        ("wav2vec2", "config.json", {"add_adapter": True}, "add_adapter"),
    ],
)
def test_configurations_that_cannot_work_are_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, file: str, values: dict[str, object], value: object
) -> None:
    changed = Path(shutil.copytree(folders[name], tmp_path / "model"))
    path = changed / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with raises_input_error(ErrorCode.unsupported, "audio_encoder", value) as error:
        load_audio_encoder(changed)
    assert "\n" not in str(error.value)


def test_strides_of_another_model_change_the_timing(folders: dict[str, Path], tmp_path: Path) -> None:
    changed = Path(shutil.copytree(folders["hubert"], tmp_path / "model"))
    path = changed / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "conv_stride": [5, 2, 2, 2, 2, 2, 1]}))
    assert read_audio_encoder_spec(changed).timing == (100.0, 0.0125)


def test_a_torch_file_of_wav2vec2_is_the_same_encoder_and_of_others_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("wav2vec2", "whisper"):
        shutil.copytree(folders[name], tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save(load_file(folders[name] / "model.safetensors"), tmp_path / name / "pytorch_model.bin")
    assert load_audio_encoder(tmp_path / "wav2vec2").spec == load_audio_encoder(folders["wav2vec2"]).spec
    with raises_input_error(ErrorCode.unsupported, "audio_encoder", str(tmp_path / "whisper")):
        load_audio_encoder(tmp_path / "whisper")

"""The feature file: round trip, equal bytes, and errors that name the malformed key."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.audio_tokens import AudioEncoderSpec, TokenTiming
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.features import METADATA_KEY, load_features, read_audio_encoder, save_features
from tests.data.feature_corpus import random_features, with_driven_faces
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize("speakers", [False, True])
def test_features_round_trip(tmp_path: Path, people: int, speakers: bool) -> None:
    features = with_driven_faces(random_features(0), people, speakers=speakers) if people else random_features(0)
    save_features(features, tmp_path / "a.safetensors", "abc")
    loaded = load_features(tmp_path / "a.safetensors")
    assert loaded.tensors().keys() == features.tensors().keys()
    for name, tensor in features.tensors().items():
        assert torch.equal(getattr(loaded, name), tensor) and getattr(loaded, name).dtype == tensor.dtype, name


WHISPER = AudioEncoderSpec("whisper", 24, TokenTiming(50.0, 0.0), (0.25, -1e-3))


def test_the_audio_encoder_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(replace(random_features(0), audio_encoder=WHISPER), path, "abc")
    assert load_features(path).audio_encoder == read_audio_encoder(path) == WHISPER


def test_files_of_earlier_releases_are_wav2vec2s(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(random_features(0), path, "abc")
    assert load_features(path).audio_encoder == read_audio_encoder(path) == AudioEncoderSpec("wav2vec2", 24)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"dim": 23}, "audio", 24),
        ({"dim": 0}, "audio_encoder.dim", 0),
        ({"kind": ""}, "audio_encoder.kind", ""),
        ({"tokens_per_second": "50"}, "audio_encoder.tokens_per_second", "50"),
        ({"tokens_per_second": 0.0}, "audio_encoder.tokens_per_second", 0.0),
        ({"first_center": -1.0}, "audio_encoder.first_center", -1.0),
        ({"weights": [True]}, "audio_encoder.weights", [True]),
        ({"weights": [0.0] * 65}, "audio_encoder.weights", [0.0] * 65),
        ({"other": 1}, "audio_encoder", {**WHISPER.to_dict(), "other": 1}),
    ],
)
def test_a_malformed_audio_encoder_is_refused(
    tmp_path: Path, change: dict[str, object], field: str, value: object
) -> None:
    described = {"format": 1, "audio_encoder": {**WHISPER.to_dict(), **change}}
    save_file(random_features(0).tensors(), tmp_path / "a", metadata={METADATA_KEY: json.dumps(described)})
    for read in (load_features, read_audio_encoder):
        with raises_input_error(ErrorCode.malformed_file, field, value):
            read(tmp_path / "a")


def test_other_processes_write_the_same_bytes(tmp_path: Path) -> None:
    save_features(random_features(0), tmp_path / "0.safetensors", "abc")
    program = (
        "import sys; from pathlib import Path; from tests.data.feature_corpus import random_features;"
        "from fantasytalking.data.features import save_features;"
        "save_features(random_features(0), Path(sys.argv[1]), 'abc')"
    )
    path = tmp_path / "1.safetensors"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=ROOT)
    assert path.read_bytes() == (tmp_path / "0.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "tensor", "key", "value"),
    [
        ("latents", torch.zeros(8, 3, 4, 6).half(), "first_frame_latents", (16, 3, 4, 6)),
        ("first_frame_latents", torch.zeros(16, 3, 4, 5).half(), "first_frame_latents", (16, 3, 4, 5)),
        ("lip_mask_causal", torch.zeros(2, 4, 6).half(), "lip_mask_causal", (2, 4, 6)),
        ("face", torch.zeros(1, 128), "face", (1, 128)),
        ("text", torch.zeros(0, 12).half(), "text", (0, 12)),
        ("audio", torch.full((17, 24), torch.nan).half(), "audio", None),
        ("frame_times", torch.arange(13).double(), "expression", (2, 9, 36)),
        ("expression", torch.zeros(2, 8, 36).half(), "expression", (2, 8, 36)),
        ("expression_present", torch.ones(1, 9, dtype=torch.bool), "expression_present", (1, 9)),
        ("boxes", torch.full((2, 9, 4), torch.nan), "boxes", None),
        ("boxes", torch.zeros(2, 9, 3), "boxes", (2, 9, 3)),
        ("speakers", torch.zeros(3, 17, 24).half(), "speakers", (3, 17, 24)),
        ("speakers", torch.zeros(2, 18, 24).half(), "speakers", (2, 18, 24)),
    ],
)
def test_malformed_tensors_are_named_when_written_and_when_read(
    tmp_path: Path, name: str, tensor: torch.Tensor, key: str, value: tuple[int, ...] | None
) -> None:
    broken = replace(with_driven_faces(random_features(0), 2, speakers=True), **{name: tensor})
    with raises_input_error(ErrorCode.malformed_file, key, value):
        save_features(broken, tmp_path / "a.safetensors", "abc")
    assert not list(tmp_path.iterdir())
    save_file(broken.tensors(), tmp_path / "b.safetensors", metadata={METADATA_KEY: json.dumps({"format": 1})})
    with raises_input_error(ErrorCode.malformed_file, key, value):
        load_features(tmp_path / "b.safetensors")


def test_frame_times_must_match_the_latents(tmp_path: Path) -> None:
    broken = replace(random_features(0), frame_times=torch.arange(12).double())
    with raises_input_error(ErrorCode.malformed_file, "frame_times", 12) as error:
        save_features(broken, tmp_path / "a.safetensors", "abc")
    assert "3 latent frames" in str(error.value)


@pytest.mark.parametrize("name", ["expression", "expression_present", "boxes"])
def test_optional_groups_are_complete_or_absent(tmp_path: Path, name: str) -> None:
    broken = replace(with_driven_faces(random_features(0), 2), **{name: None})
    with raises_input_error(ErrorCode.malformed_file, name) as error:
        save_features(broken, tmp_path / "a.safetensors", "abc")
    assert "missing" in str(error.value)


def test_wrong_types_keys_and_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(random_features(0), path, "abc")
    tensors, good = load_file(path), {METADATA_KEY: json.dumps({"format": 1})}
    for changed, metadata, key, value, word in [
        ({**tensors, "text": tensors["text"].float()}, good, "text", torch.float32, "torch.float16"),
        ({**tensors, "more": torch.zeros(1)}, good, "more", None, "unknown"),
        ({name: tensor for name, tensor in tensors.items() if name != "face"}, good, "face", None, "missing"),
        (tensors, {METADATA_KEY: json.dumps({"format": 2})}, "format", 2, "format 2"),
        (tensors, {"other": "1"}, "format", None, "format None"),
    ]:
        save_file(changed, path, metadata=metadata)
        with raises_input_error(ErrorCode.malformed_file, key, value) as error:
            load_features(path)
        assert word in str(error.value)
    path.write_bytes(path.read_bytes()[:500])
    with raises_input_error(ErrorCode.malformed_file, "path", str(path)):
        load_features(path)


def test_a_file_system_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with raises_input_error(ErrorCode.missing_file, "feature file", str(path)):
        load_features(path)

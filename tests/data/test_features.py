"""The feature file: round trip, equal bytes, and every breach of the contract named."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.common.errors import InputError
from fantasytalking.data.features import METADATA_KEY, load_features, save_features
from tests.data.feature_corpus import random_features, with_driven_faces
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize("speakers", [False, True])
def test_features_come_back(tmp_path: Path, people: int, speakers: bool) -> None:
    features = with_driven_faces(random_features(0), people, speakers=speakers) if people else random_features(0)
    save_features(features, tmp_path / "a.safetensors", "abc")
    loaded = load_features(tmp_path / "a.safetensors")
    for name, tensor in vars(features).items():
        if tensor is None:
            assert getattr(loaded, name) is None
        else:
            assert torch.equal(getattr(loaded, name), tensor) and getattr(loaded, name).dtype == tensor.dtype, name


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
    ("name", "tensor", "message"),
    [
        ("latents", torch.zeros(8, 3, 4, 6).half(), "'first_frame_latents' has shape"),
        ("first_frame_latents", torch.zeros(16, 3, 4, 5).half(), "'first_frame_latents' has shape"),
        ("lip_mask_causal", torch.zeros(2, 4, 6).half(), "'lip_mask_causal' has shape"),
        ("face", torch.zeros(1, 128), "'face' has shape"),
        ("text", torch.zeros(0, 12).half(), "'text' has shape"),
        ("audio", torch.full((17, 24), torch.nan).half(), "'audio' holds values that are not finite"),
        ("frame_times", torch.arange(13).double(), "'expression' has shape"),
        ("expression", torch.zeros(2, 8, 36).half(), "'expression' has shape"),
        ("expression_present", torch.ones(1, 9, dtype=torch.bool), "'expression_present' has shape"),
        ("boxes", torch.full((2, 9, 4), torch.nan), "'boxes' holds values that are not finite"),
        ("boxes", torch.zeros(2, 9, 3), "'boxes' has shape"),
        ("speakers", torch.zeros(3, 17, 24).half(), "'speakers' has shape"),
        ("speakers", torch.zeros(2, 18, 24).half(), "'speakers' has shape"),
    ],
)
def test_breaches_are_named_when_written_and_when_read(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    broken = replace(with_driven_faces(random_features(0), 2, speakers=True), **{name: tensor})
    with pytest.raises(InputError, match=message):
        save_features(broken, tmp_path / "a.safetensors", "abc")
    assert not list(tmp_path.iterdir())
    save_file(dict(vars(broken)), tmp_path / "b.safetensors", metadata={METADATA_KEY: json.dumps({"format": 1})})
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "b.safetensors")


def test_frame_times_must_go_with_the_latents(tmp_path: Path) -> None:
    broken = replace(random_features(0), frame_times=torch.arange(13).double())
    with pytest.raises(InputError, match="13 frame times do not go with 3 latent frames"):
        save_features(broken, tmp_path / "a.safetensors", "abc")


@pytest.mark.parametrize("name", ["expression", "expression_present", "boxes"])
def test_what_drives_a_face_is_there_wholly_or_not_at_all(tmp_path: Path, name: str) -> None:
    broken = replace(with_driven_faces(random_features(0), 2), **{name: None})
    with pytest.raises(InputError, match=f"'{name}' misses"):
        save_features(broken, tmp_path / "a.safetensors", "abc")


def test_wrong_types_keys_and_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_features(random_features(0), path, "abc")
    tensors, good = load_file(path), {METADATA_KEY: json.dumps({"format": 1})}
    for changed, metadata, message in [
        ({**tensors, "text": tensors["text"].float()}, good, "'text' is torch.float32"),
        ({**tensors, "more": torch.zeros(1)}, good, "'more' is unknown"),
        ({key: value for key, value in tensors.items() if key != "face"}, good, "'face' misses"),
        (tensors, {METADATA_KEY: json.dumps({"format": 2})}, "has format 2"),
        (tensors, {"other": "1"}, "has format None"),
    ]:
        save_file(changed, path, metadata=metadata)
        with pytest.raises(InputError, match=message):
            load_features(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="is damaged"):
        load_features(path)


def test_a_file_system_that_fails_costs_the_clip(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not be read .*check its file system"):
        load_features(tmp_path / ("x" * 300))

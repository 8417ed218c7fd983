"""The feature file: round trip, equal bytes, and every breach of the contract named."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.data.features import METADATA_KEY, load_features, save_features
from fantasytalking.errors import InputError
from tests.data.corpus import random_features

ROOT = Path(__file__).resolve().parents[2]


def test_features_come_back(tmp_path: Path) -> None:
    features = random_features(0)
    save_features(features, tmp_path / "a.safetensors", "abc")
    loaded = load_features(tmp_path / "a.safetensors")
    for name, tensor in vars(features).items():
        assert torch.equal(getattr(loaded, name), tensor) and getattr(loaded, name).dtype == tensor.dtype, name


def test_other_processes_write_the_same_bytes(tmp_path: Path) -> None:
    save_features(random_features(0), tmp_path / "0.safetensors", "abc")
    program = (
        "import sys; from pathlib import Path; from tests.data.corpus import random_features;"
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
        ("frame_times", torch.arange(13).double(), "13 frame times do not go with 3 latent frames"),
    ],
)
def test_breaches_are_named_when_written_and_when_read(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    broken = replace(random_features(0), **{name: tensor})
    with pytest.raises(InputError, match=message):
        save_features(broken, tmp_path / "a.safetensors", "abc")
    assert not list(tmp_path.iterdir())
    save_file(vars(broken), tmp_path / "b.safetensors", metadata={METADATA_KEY: json.dumps({"format": 1})})
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "b.safetensors")


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

"""What was downloaded into checkpoints/NAME is found by its hub id: by the model, by encoders and by preparation."""

from pathlib import Path

import pytest
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.encode import encoder_paths
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.tiny_components import build_components
from tests.helpers.tiny_transformer import PORTRAIT, save_base


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder checkpoints of a working directory; the hub is out of reach and its cache empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "checkpoints"


def test_only_a_hub_id_is_looked_for(checkpoints: Path) -> None:
    (checkpoints / "model").mkdir(parents=True)
    assert resolve_local("somebody/model") == Path("checkpoints/model")
    assert resolve_local("somebody/other") == "somebody/other"
    assert resolve_local("/somebody/model") == "/somebody/model"
    Path("somebody/model").mkdir(parents=True)
    assert resolve_local("somebody/model") == "somebody/model", "a path that is there is meant"


def test_a_base_is_found_and_its_absence_told_with_that_place(checkpoints: Path) -> None:
    with pytest.raises(InputError, match="hf download somebody/base --local-dir checkpoints/base"):
        load_from_wan("somebody/base", PORTRAIT)
    folder = save_base(checkpoints / "base" / "transformer")
    found, expected = load_from_wan("somebody/base", PORTRAIT), load_from_wan(folder, PORTRAIT)
    assert torch.equal(found.proj_out.weight, expected.proj_out.weight)


def test_encoders_are_found_and_fingerprinted_there(checkpoints: Path) -> None:
    build_components(checkpoints / "tiny")
    assert VideoAutoencoder.from_pretrained("somebody/tiny").spatial_stride == 8
    config = PreparationConfig(base="somebody/tiny")
    places = encoder_paths(config)
    assert places["vae"] == Path("checkpoints/tiny/vae") and {"text_encoder", "face_encoder"} <= places.keys()

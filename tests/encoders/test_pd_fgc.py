"""The released expression encoder: strict loading, and crops as OpenCV's."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.face_alignment import crop_aligned_bicubic, estimate_similarity
from fantasytalking.encoders.fantasy_portrait.pd_fgc import PdFgcNetwork

STANDARD = np.array([[0.3843, 0.27], [0.62, 0.2668], [0.503, 0.4185], [0.406, 0.5273], [0.5977, 0.525]])


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """The tensors of the released file with random values; its unused ones too."""
    torch.manual_seed(0)
    unused = {"mouth_embed.1.weight": torch.zeros(500, 512), "mouth_embed.1.bias": torch.zeros(500)}
    return {**PdFgcNetwork().state_dict(), **unused}


def test_the_files_tensors_are_those_of_the_published_network(released: dict[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in released.items()}
    assert shapes["model.conv1.weight"] == (64, 3, 7, 7) and shapes["model.conv1.bias"] == (64,)
    assert shapes["model.conv2.downsample.2.weight"] == (128, 64, 1, 1)
    assert shapes["model.conv4.conv3.weight"] == (64, 64, 3, 3) and "model.conv3.downsample.0.weight" not in shapes
    assert shapes["model.m0.b2_plus_1.bn3.running_var"] == (64,) and "model.m0.b2_plus_2.bn3.weight" not in shapes
    assert shapes["model.l0.weight"] == (68, 256, 1, 1) and shapes["model.fc.weight"] == (512, 784)
    assert shapes["to_eye.3.weight"] == (512, 512) and shapes["emo_embed.1.weight"] == (30, 512)
    blocks = {name.split(".")[2] for name in shapes if name.startswith("model.m0.")}
    assert len(blocks) == 13


def test_the_released_file_is_an_encoder(released: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(released, tmp_path / "pd_fpg.pth")
    encoder = ExpressionEncoder.from_pretrained(tmp_path / "pd_fpg.pth")
    frames = np.random.default_rng(0).integers(0, 255, (2, 80, 90, 3), dtype=np.uint8)
    points = np.tile(20 + 50 * STANDARD, (2, 1, 1))
    points[1] = np.nan
    found = encoder.encode(frames, points)
    assert encoder.dims == (6, 6, 30, 512) and found.features.shape == (2, 554)
    assert found.present.tolist() == [True, False] and torch.equal(found.features[0], found.features[1])
    with torch.no_grad():
        network = encoder.network
        assert isinstance(network, PdFgcNetwork)
        seen = network.model(
            crop_aligned_bicubic(frames[:1], estimate_similarity(points[:1], STANDARD + 0.5 / 224), 224)
        )
        expected = network.get_submodule("emo_embed")(network.get_submodule("to_emo")(seen))
    assert torch.allclose(found.features[:1, 12:42], expected, atol=1e-5), "emotion is between eyes and mouth"


def test_crops_are_those_of_opencv() -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 255, (120, 140, 3), dtype=np.uint8), (0, 0), 2)
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.4
    matrix = np.concatenate([turn, [[35.0], [-3.0]]], axis=1)  # from pixels of the crop to those of the picture
    points = 224 * STANDARD @ turn.T + matrix[:, 2] + 0.5
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(picture, matrix, (224, 224), flags=flags).astype(np.float32)
    found = crop_aligned_bicubic(picture[None], estimate_similarity(points[None], STANDARD + 0.5 / 224), 224)[0]
    levels = (found.permute(1, 2, 0).numpy() + 1) * 127.5
    inside = expected.min(axis=2) > 0
    assert np.abs(levels - expected)[inside].mean() < 1 and inside.mean() > 0.5


def test_other_files_are_refused(released: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "pd_fpg.pth"

    def refused(content: object, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            ExpressionEncoder.from_pretrained(path)

    name = "eye_embed.1.bias"
    refused({key: value for key, value in released.items() if key != name}, f"'{name}'")
    refused({**released, "more": torch.zeros(1)}, "'more'")
    refused({**released, name: torch.zeros(7)}, f"'{name}'.*7")
    refused({**released, name: torch.full((6,), torch.inf)}, f"'{name}'.*(NaN|inf)")
    refused([1, 2], "missing")
    refused({"code": Path}, "plain tensors")
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        ExpressionEncoder.from_pretrained(path)
    save_file({key: value.contiguous() for key, value in released.items()}, tmp_path / "same.safetensors")
    assert ExpressionEncoder.from_pretrained(tmp_path / "same.safetensors").dims == (6, 6, 30, 512)

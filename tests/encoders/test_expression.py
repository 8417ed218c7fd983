"""The expression encoder: aligned crops, features of every frame, and malformed folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig, ExpressionNetwork
from fantasytalking.encoders.face_alignment import crop_aligned, estimate_similarity
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity
from tests.helpers.errors import raises_input_error

SIZE = 128
POINTS = np.array([[50, 55], [78, 55], [64, 70], [54, 86], [74, 86]], np.float64)
"""Points of a face in the center of the image, about as in the portrait world."""


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return PortraitRenderer(make_identity(0), SIZE, 1.6).portrait()


@pytest.fixture
def encoder() -> ExpressionEncoder:
    torch.manual_seed(0)
    return ExpressionEncoder(ExpressionNetwork(ExpressionEncoderConfig(channels=[8, 8, 16, 16], hidden=8)))


def moved(
    picture: NDArray[np.uint8], degrees: float, scale: float, way: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The image rotated about its center, scaled and shifted, and the transformed points."""
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), degrees, scale)
    matrix[:, 2] += way
    # OpenCV's coordinates are relative to the center of the first pixel.
    whole = matrix.copy()
    whole[:, 2] += 0.5 - matrix[:, :2] @ np.array([0.5, 0.5])
    turned = cv2.warpAffine(picture, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned), POINTS @ whole[:, :2].T + whole[:, 2]


def test_crops_do_not_depend_on_the_pose_in_the_plane(picture: NDArray[np.uint8]) -> None:
    other, points = moved(picture, 15, 0.8, (9.0, -6.0))
    upright = crop_aligned(picture[None], estimate_similarity(POINTS[None]), 64)[0].numpy()
    turned = crop_aligned(other[None], estimate_similarity(points[None]), 64)[0].numpy()
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert upright.shape == (3, 64, 64) and np.abs(upright).max() <= 1
    assert np.corrcoef(upright[inner].ravel(), turned[inner].ravel())[0, 1] > 0.99
    assert np.corrcoef(upright[inner].ravel(), turned[:, ::-1][inner].ravel())[0, 1] < 0.9


def test_fine_patterns_are_averaged() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_aligned(stripes[None], estimate_similarity(4 * POINTS[None]), 32)
    assert crop.abs().max() < 0.25, "single samples would be black or white, 1 and -1"


def test_frames_without_a_face_repeat_the_last_one(encoder: ExpressionEncoder, picture: NDArray[np.uint8]) -> None:
    frames = np.stack([np.roll(picture, shift, axis=0) for shift in range(6)])
    points = np.tile(POINTS, (6, 1, 1))
    whole = encoder.encode(frames, points)
    assert whole.features.shape == (6, 36) and whole.present.all() and whole.features.std(dim=0).gt(0).all()
    points[[0, 3, 4]] = np.nan
    found = encoder.encode(frames, points, POINTS)
    assert found.present.tolist() == [False, True, True, False, False, True]
    assert torch.allclose(found.features[[1, 2, 5]], whole.features[[1, 2, 5]], atol=1e-5)
    assert torch.equal(found.features[[0, 3, 4]], found.features[[1, 2, 2]])
    with raises_input_error(ErrorCode.no_face, "points", 6):
        encoder.encode(frames, np.full((6, 5, 2), np.nan))


def test_head_motion_is_relative_to_the_first_frame_at_every_resolution(
    encoder: ExpressionEncoder, picture: NDArray[np.uint8]
) -> None:
    room = np.pad(picture, ((64, 64), (64, 64), (0, 0)), mode="edge")
    frames, both = np.stack([room, np.roll(room, 12, axis=1)]), np.stack([POINTS + 64, POINTS + np.array([76, 64])])
    found = encoder.encode(frames, both).features
    head = slice(0, 6)
    assert torch.allclose(found[1, 6:], found[0, 6:], atol=1e-5), "the same face at another position"
    assert (found[1] - found[0])[head].abs().max() > 0.01
    large = np.stack([cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for frame in frames])
    again = encoder.encode(large, 2 * both).features
    assert np.corrcoef(again.flatten(), found.flatten())[0, 1] > 0.99
    later = encoder.encode(frames[1:], both[1:], reference_points=both[0]).features
    assert torch.allclose(later, found[1:], atol=1e-5)
    assert not torch.allclose(encoder.encode(frames[1:], both[1:]).features[:, head], found[1:, head], atol=1e-3)


def test_a_saved_encoder_is_the_same(encoder: ExpressionEncoder, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "expression_encoder", torch.float32)
    again = ExpressionEncoder.from_pretrained(tmp_path / "expression_encoder")
    frames, points = picture[None], POINTS[None]
    assert again.dims == encoder.dims == (6, 6, 8, 16)
    assert torch.equal(again.encode(frames, points).features, encoder.encode(frames, points).features)
    encoder.save_pretrained(tmp_path / "half")
    half = ExpressionEncoder.from_pretrained(tmp_path / "half").encode(frames, points).features
    assert torch.allclose(half, encoder.encode(frames, points).features, atol=0.02)


def test_damaged_folders_are_refused(encoder: ExpressionEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    encoder.save_pretrained(folder)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    name = "last.eye.bias"

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            ExpressionEncoder.from_pretrained(folder)

    for broken, message in [
        ({**tensors, name: tensors[name][:5].contiguous()}, name),
        ({key: value for key, value in tensors.items() if key != name}, name),
        ({**tensors, "more": torch.zeros(1)}, "'more'"),
        ({**tensors, name: torch.full((6,), torch.nan)}, f"'{name}'.*NaN"),
    ]:
        save_file(broken, folder / "model.safetensors")
        refused(message)
    save_file(tensors, folder / "model.safetensors")
    for name, value in [("dims", [6, 6, 8]), ("hidden", 10**9), ("size", 60), ("channels", [8, 12])]:
        (folder / "config.json").write_text(json.dumps({**config, name: value}))
        with raises_input_error(ErrorCode.out_of_range, name, value):
            ExpressionEncoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "surprise": 1}))
    refused("surprise")
    (folder / "config.json").write_text(" " * (1 << 17))
    with raises_input_error(ErrorCode.out_of_range, "config.json", 1 << 17):
        ExpressionEncoder.from_pretrained(folder)
    (folder / "config.json").unlink()
    refused("does not exist")

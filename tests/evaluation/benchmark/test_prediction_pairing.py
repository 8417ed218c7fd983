"""Predictions that do not match the protocol are rejected by name before anything is measured."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.media import write_video
from tests.helpers.errors import raises_input_error


@pytest.fixture
def predictions(same: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(same, tmp_path / "predictions"))


def write_gray(
    path: Path, frames: int, fps: float = 25.0, size: tuple[int, int] = (96, 96), audio: bool = True
) -> None:
    images = np.full((frames, *size, 3), 90, np.uint8)
    write_video(path, images, fps=fps, audio=np.zeros(round(frames / fps * 16000), np.float32) if audio else None)


def test_predictions_are_matched_by_name(protocol: BenchmarkProtocol, world: Path, predictions: Path) -> None:
    first = protocol.clips[0]
    (predictions / first.name).mkdir()
    (predictions / f"{first.name}.mp4").rename(predictions / first.name / "video.mp4")
    pairs = match_predictions(protocol, world, predictions)
    assert [pair.clip for pair in pairs] == list(protocol.clips)
    assert pairs[0].prediction == predictions / first.name / "video.mp4"
    assert pairs[1].prediction_sha256 == protocol.clips[1].sha256  # the predictions are the references
    shutil.copy(pairs[0].prediction, predictions / f"{first.name}.mp4")
    with raises_input_error(ErrorCode.conflict, "--predictions", first.name):
        match_predictions(protocol, world, predictions)


def test_missing_files_are_counted_and_named(
    protocol: BenchmarkProtocol, world: Path, predictions: Path, tmp_path: Path
) -> None:
    names = [clip.name for clip in protocol.clips]
    (predictions / f"{names[1]}.mp4").unlink()
    (predictions / f"{names[3]}.mp4").unlink()
    with raises_input_error(ErrorCode.missing_file, "--predictions", [names[1], names[3]]) as caught:
        match_predictions(protocol, world, predictions)
    assert str(caught.value).startswith("2 clips") and str(caught.value).endswith(f": {names[1]}, {names[3]}")
    with raises_input_error(ErrorCode.missing_file, "--predictions", names) as caught:
        match_predictions(protocol, world, tmp_path)
    assert str(caught.value).endswith(f"{names[2]}, ...")
    with raises_input_error(ErrorCode.missing_file, "--references", names):
        match_predictions(protocol, predictions, world)
    with raises_input_error(ErrorCode.missing_file, "--predictions", str(tmp_path / "nowhere")):
        match_predictions(protocol, world, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "code", "field", "detail"),
    [
        ({"fps": 23.0}, ErrorCode.out_of_range, "fps", "(23)"),
        ({"frames": -1}, ErrorCode.out_of_range, "frames", "frames, must be"),
        ({"frames": +5}, ErrorCode.out_of_range, "frames", "frames, must be"),
        ({"size": (96, 64)}, ErrorCode.out_of_range, "size", "(64x96)"),
        ({"audio": False}, ErrorCode.unreadable_media, "audio", "(no audio)"),
    ],
)
def test_mismatched_predictions_are_named(
    protocol: BenchmarkProtocol,
    world: Path,
    predictions: Path,
    change: dict,
    code: ErrorCode,
    field: str,
    detail: str,
) -> None:
    clip = protocol.clips[2]
    change = {**change, "frames": clip.frames + change.get("frames", 0)}
    write_gray(predictions / f"{clip.name}.mp4", **change)
    with raises_input_error(code, field, [clip.name]) as caught:
        match_predictions(protocol, world, predictions)
    assert clip.name in str(caught.value) and detail in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_extra_frames_are_cut_off(protocol: BenchmarkProtocol, world: Path, predictions: Path) -> None:
    clip = protocol.clips[0]
    write_gray(predictions / f"{clip.name}.mp4", clip.frames + protocol.surplus)
    pair = match_predictions(protocol, world, predictions)[0]
    assert len(protocol.prediction_clip(clip, pair.prediction, world).frames) == clip.frames

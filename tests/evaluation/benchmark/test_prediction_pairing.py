"""Predictions that do not fit are refused by name before anything is measured."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.media import write_video


@pytest.fixture
def predictions(same: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(same, tmp_path / "predictions"))


def remade(path: Path, frames: int, fps: float = 25.0, size: tuple[int, int] = (96, 96), sound: bool = True) -> None:
    pictures = np.full((frames, *size, 3), 90, np.uint8)
    write_video(path, pictures, fps=fps, audio=np.zeros(round(frames / fps * 16000), np.float32) if sound else None)


def test_pairs_by_name(protocol: BenchmarkProtocol, world: Path, predictions: Path) -> None:
    first = protocol.clips[0]
    (predictions / first.name).mkdir()
    (predictions / f"{first.name}.mp4").rename(predictions / first.name / "video.mp4")
    pairs = match_predictions(protocol, world, predictions)
    assert [pair.clip for pair in pairs] == list(protocol.clips)
    assert pairs[0].prediction == predictions / first.name / "video.mp4"
    assert pairs[1].prediction_sha256 == protocol.clips[1].sha256  # the predictions are the references
    shutil.copy(pairs[0].prediction, predictions / f"{first.name}.mp4")
    with pytest.raises(InputError, match=f"both predictions of '{first.name}'"):
        match_predictions(protocol, world, predictions)


def test_what_misses_is_counted_and_named(
    protocol: BenchmarkProtocol, world: Path, predictions: Path, tmp_path: Path
) -> None:
    names = [clip.name for clip in protocol.clips]
    (predictions / f"{names[1]}.mp4").unlink()
    (predictions / f"{names[3]}.mp4").unlink()
    with pytest.raises(InputError, match=rf"^2 clips have no prediction in .*: {names[1]}, {names[3]}$"):
        match_predictions(protocol, world, predictions)
    with pytest.raises(InputError, match=r"^4 clips have no prediction .*, \.\.\.$"):
        match_predictions(protocol, world, tmp_path)
    with pytest.raises(InputError, match=r"^4 clips have no reference"):
        match_predictions(protocol, predictions, world)
    with pytest.raises(InputError, match="is not a folder"):
        match_predictions(protocol, world, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 23.0}, r"not at the protocol's 25 frames a second.*\(23\)"),
        ({"frames": -1}, r"another length.*frames, must be"),
        ({"frames": +5}, r"another length.*frames, must be"),
        ({"size": (96, 64)}, r"another shape than 96x96.*\(64x96\)"),
        ({"sound": False}, "without sound"),
    ],
)
def test_what_does_not_fit_is_named(
    protocol: BenchmarkProtocol, world: Path, predictions: Path, change: dict, message: str
) -> None:
    clip = protocol.clips[2]
    change = {**change, "frames": clip.frames + change.get("frames", 0)}
    remade(predictions / f"{clip.name}.mp4", **change)
    with pytest.raises(InputError, match=f"^1 clip have a prediction .*{message}") as caught:
        match_predictions(protocol, world, predictions)
    assert clip.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_frames_too_many_are_cut_off(protocol: BenchmarkProtocol, world: Path, predictions: Path) -> None:
    clip = protocol.clips[0]
    remade(predictions / f"{clip.name}.mp4", clip.frames + protocol.surplus)
    pair = match_predictions(protocol, world, predictions)[0]
    assert len(protocol.prediction_clip(clip, pair.prediction, world).frames) == clip.frames

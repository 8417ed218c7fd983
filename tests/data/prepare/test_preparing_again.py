"""Preparing again repairs what is damaged, notices edited captions, and begins with what takes no time."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.cli import run
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.manifest import ClipRecord, corpus_face_ranges, read_manifest, write_records
from fantasytalking.data.prepare.clip_measures import measure_people, measure_visibility
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.sharpness import face_blur
from tests.data.preparation_runs import file_hashes, run_in_process, small_config
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT


@dataclass
class Prepared:
    videos: Path
    output: Path
    config: PreparationConfig
    hashes: dict[str, str]

    def again(self) -> list[ClipRecord]:
        return run_in_process(self.videos, self.output, self.config)[0]

    @property
    def features(self) -> Path:
        (path,) = self.output.rglob("*.safetensors")
        return path

    @property
    def result(self) -> Path:
        (path,) = (self.output / "progress" / "clips").rglob("*.json")
        return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, good: Path, components: Path) -> Prepared:
    """A corpus of one clip."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "videos").mkdir()
    shutil.copy(good / "talk.mp4", folder / "videos")
    config = small_config(components, contact_sheet_clips=0)
    run_in_process(folder / "videos", folder / "out", config)
    return Prepared(folder / "videos", folder / "out", config, file_hashes(folder / "out"))


@pytest.fixture
def prepared(original: Prepared, tmp_path: Path) -> Prepared:
    for name in ("videos", "out"):
        shutil.copytree(getattr(original, "output" if name == "out" else name), tmp_path / name)
    return Prepared(tmp_path / "videos", tmp_path / "out", original.config, original.hashes)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Prepared], object]] = {
    "truncated, its time unchanged": lambda corpus: (
        os.truncate(corpus.features, 100),
        os.utime(corpus.features, ns=(0, 0)),
    ),
    "one byte": lambda corpus: flip_a_byte(corpus.features),
    "deleted": lambda corpus: corpus.features.unlink(),
    "its result": lambda corpus: corpus.result.write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_feature_file_is_repaired(prepared: Prepared, damage: str) -> None:
    DAMAGES[damage](prepared)
    assert file_hashes(prepared.output) != prepared.hashes
    prepared.again()
    assert file_hashes(prepared.output) == prepared.hashes


def test_intact_files_are_kept(prepared: Prepared) -> None:
    os.utime(prepared.features)  # newer than its result, as after copying
    before = prepared.features.stat().st_mtime_ns
    prepared.again()
    assert prepared.features.stat().st_mtime_ns == before
    # A result of an earlier release, which recorded neither content nor caption.
    result = json.loads(prepared.result.read_text())
    for key in ("feature_file", "companions", "face_blur", "loudness_db", "upscale"):
        del result[key]
    prepared.result.write_text(json.dumps(result))
    (record,) = prepared.again()
    assert prepared.features.stat().st_mtime_ns == before
    assert record.face_blur is None and record.face_yaw is not None
    assert read_manifest(prepared.output / "manifest.jsonl") == [record]


def test_an_edited_caption_is_noticed(prepared: Prepared) -> None:
    caption = prepared.videos / "talk.txt"
    before = PortraitDataset(prepared.output / "manifest.jsonl")[0].features.text
    caption.write_text("Somebody else is talking, and loudly.")
    prepared.again()
    after = PortraitDataset(prepared.output / "manifest.jsonl")[0].features.text
    assert after.shape != before.shape or not torch.equal(after, before)
    caption.write_bytes(b"\xff\xfe\x00")
    with raises_input_error(ErrorCode.unreadable_media, "--input", "1 unreadable"):
        prepared.again()
    caption.unlink()
    prepared.again()
    assert file_hashes(prepared.output) == prepared.hashes


def test_the_manifest_has_the_measured_values(original: Prepared, tmp_path: Path) -> None:
    (record,) = read_manifest(original.output / "manifest.jsonl")
    assert 0.85 <= record.face_confidence <= 1 and 0.95 <= record.visible_fraction <= 1  # type: ignore[operator]
    assert 0 < record.face_blur < 0.62 and 0 <= record.face_movement < 0.1  # type: ignore[operator]
    assert 0 <= record.face_yaw < 45 and record.mouth_speed > 0  # type: ignore[operator]
    assert -1 <= record.mouth_audio_correlation <= 1 and -50 < record.loudness_db < 0  # type: ignore[operator]
    assert record.face_height == pytest.approx(record.face_size / record.height, rel=0.02)
    assert 0.3 < record.face_x < 0.7 and 0.3 < record.face_y < 0.8  # type: ignore[operator]
    assert list(corpus_face_ranges([record, replace(record, face_x=None)])) == [1]
    write_records(tmp_path / "again.jsonl", [record])
    assert (tmp_path / "again.jsonl").read_text() == (original.output / "manifest.jsonl").read_text()


def test_measures_state_the_least_favorable_person() -> None:
    generator = np.random.default_rng(0)
    shape = generator.normal(size=(478, 3)).astype(np.float32) * 8

    def track(left: float, confidence: float) -> FaceTrack:
        landmarks = np.repeat(shape[None], 30, axis=0) + np.float32([left, 32, 0])
        seen = np.ones(30, bool)
        return FaceTrack(np.arange(30) / 25, landmarks, seen, ~seen, np.full(30, confidence, np.float32), 64, 128)

    frames = generator.integers(0, 255, (30, 64, 128, 3), dtype=np.uint8)
    frames[:, :, 64:] = frames[:, :1, 64:65]  # the second face has no contrast
    tracks = [track(32, 0.9), track(96, 0.7)]
    found = measure_visibility(tracks) | measure_people(frames, tracks, np.zeros(19200, np.float32), 1.0)
    assert found["face_confidence"] == pytest.approx(0.7, abs=1e-5)
    assert found["face_blur"] == pytest.approx(max(face_blur(frames[0], each.boxes[0]) for each in tracks), abs=0.05)
    assert found["mouth_audio_correlation"] == 0 and found["people"] == 2


@pytest.mark.parametrize("config", [[], ["--config", "configs/wan14b/data.yaml"]])
def test_a_missing_input_is_named_before_any_encoder_is_looked_for(tmp_path: Path, config: list[str]) -> None:
    with raises_input_error(ErrorCode.missing_file, "--input", str(tmp_path / "nosuch")):
        run(["prepare", "--input", str(tmp_path / "nosuch"), "--output", str(tmp_path / "out"), *config])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path / "out")):
        run(["prepare", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *config])


def test_the_default_configuration_is_that_of_nano(
    original: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = [f"base={original.config.base}", "frames=17", "clip_stride=1000", "contact_sheet_clips=0"]
    run(["prepare", "--input", str(original.videos), "--output", str(tmp_path / "out"), *settings])
    (record,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert (record.width, record.height, record.fps) == (96, 96, 25.0)

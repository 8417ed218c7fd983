"""Tests of clips of one speaker: consistent files, which stay the same between versions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.common.files import hash_file
from fantasytalking.media import probe, read_audio, read_image, read_video
from fantasytalking.portrait_world.corpus.rendered_clip import (
    ClipPlan,
    PortraitRenderer,
    clip_ground_truth,
    perform_plan,
    write_clip,
)
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity

PLAN = ClipPlan(identity=1, sentence=2, text="We moved five maps.", seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / PLAN.name
    write_clip(PortraitRenderer(make_identity(PLAN.identity), 96), PLAN, folder)
    return folder


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth.json").read_text())


def test_the_folder_is_named_by_identity_and_sentence_and_has_four_files(folder: Path) -> None:
    assert folder.name == "id0001_s0002"
    assert sorted(path.name for path in folder.iterdir()) == ["portrait.png", "speech.wav", "truth.json", "video.mp4"]


def test_video_audio_and_truth_have_one_length(folder: Path, known: dict[str, Any]) -> None:
    info = probe(folder / "video.mp4")
    assert (info.width, info.height, info.has_audio) == (96, 96, True)
    assert info.fps == pytest.approx(25)
    speech = read_audio(folder / "speech.wav", sample_rate=22050)
    assert len(known["frames"]) == len(read_video(folder / "video.mp4").frames)
    assert abs(len(known["frames"]) / 25 - len(speech) / 22050) <= 1 / 25


def test_the_video_has_the_speech_as_audio(folder: Path) -> None:
    speech = read_audio(folder / "speech.wav", sample_rate=16000)
    audio = read_audio(folder / "video.mp4", sample_rate=16000)
    count = min(len(speech), len(audio))
    assert np.corrcoef(speech[:count], audio[:count])[0, 1] > 0.97


def test_the_ground_truth_has_the_requested_values(known: dict[str, Any]) -> None:
    assert known["identity"] == 1
    assert known["text"] == PLAN.text
    assert 0 <= known["expression"] <= 1
    assert 0 <= known["body"] <= 1
    assert known["fps"] == 25
    for frame in known["frames"]:
        assert 0 <= frame["mouth_open"] <= 1
        assert 0.4 < frame["mouth_width"] < 1.3
        assert max(abs(frame["yaw"]), abs(frame["pitch"]), abs(frame["roll"])) < 0.6
        assert isinstance(frame["phoneme"], str)
    assert known["frames"][0]["phoneme"] == known["frames"][-1]["phoneme"] == "_"
    assert max(frame["mouth_open"] for frame in known["frames"]) > 0.25


def test_the_portrait_is_the_person_at_rest(folder: Path) -> None:
    portrait = read_image(folder / "portrait.png")
    assert np.array_equal(portrait, PortraitRenderer(make_identity(1), 96).portrait())


def test_another_seed_changes_the_motion_but_not_the_text() -> None:
    renderer = PortraitRenderer(make_identity(1), 64)
    other = ClipPlan(1, 2, PLAN.text, seed=5)
    first, second = (
        clip_ground_truth(renderer, PLAN, perform_plan(renderer.identity, PLAN)),
        clip_ground_truth(renderer, other, perform_plan(renderer.identity, other)),
    )
    assert first["text"] == second["text"]
    assert [frame["yaw"] for frame in first["frames"]] != [frame["yaw"] for frame in second["frames"]]


def test_requested_intensities_are_kept() -> None:
    performance = perform_plan(make_identity(1), ClipPlan(1, 2, PLAN.text, 4, expression=0.25, body=1.0))
    assert (performance.expression, performance.body) == (0.25, 1.0)


def test_clips_of_one_person_are_unchanged_between_versions(tmp_path: Path) -> None:
    """Existing corpora and benchmarks can be rendered again."""
    renderer = PortraitRenderer(make_identity(1), 96)
    write_clip(renderer, ClipPlan(1, 0, "Pip.", seed=1), tmp_path / "id0001_s0000")
    for name, digest in (
        ("truth.json", "ca42e775f36545a43783eb2ba2d90fba0e1e56ec1daceecf7b6185ba526bfcf3"),
        ("speech.wav", "58002345adb8da7564549baa0322be803f451963c4c9c38e8b6c5f77738f37c6"),
    ):
        assert hash_file(tmp_path / "id0001_s0000" / name) == digest, name
    # Another processor may round a pixel otherwise.
    turned = renderer.frame(FaceState(mouth_open=0.6, yaw=0.2, blink=0.5, smile=0.4))
    assert renderer.portrait().mean((0, 1)) == pytest.approx([118.053, 108.403, 90.068], abs=0.01)
    assert turned.mean((0, 1)) == pytest.approx([116.722, 106.948, 88.963], abs=0.01)

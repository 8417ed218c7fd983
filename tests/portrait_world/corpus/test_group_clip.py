"""Tests of clips of several people: consistent files, separate audio, reproducibility."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.media import probe, read_audio, read_image, read_video
from fantasytalking.portrait_world.corpus.group_clip import (
    GroupClipPlan,
    SpeakingRole,
    camera_path,
    make_group_renderer,
    perform_group,
    write_group_clip,
)

SIZE = (160, 96)
PLAN = GroupClipPlan(
    20, 3, (SpeakingRole(31, "Mow."), SpeakingRole(20, "Pip."), SpeakingRole(4, "")), seed=1, jitter=0.01
)
WIDE = (240, 96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / PLAN.name
    write_group_clip(PLAN, WIDE, 1.0, folder)
    return folder


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth.json").read_text())


def test_the_folder_has_the_audio_of_each_person(folder: Path) -> None:
    assert folder.name == "g0020_s0003"
    sounds = [f"speech_{index}.wav" for index in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == ["portrait.png", *sounds, "truth.json", "video.mp4"]


def test_video_audio_and_truth_have_one_length(folder: Path, known: dict[str, Any]) -> None:
    info = probe(folder / "video.mp4")
    assert (info.width, info.height, info.has_audio) == (*WIDE, True)
    count = len(read_video(folder / "video.mp4").frames)
    assert len(known["jitter"]) == count
    sounds = [read_audio(folder / f"speech_{index}.wav", sample_rate=22050) for index in range(3)]
    assert len({len(sound) for sound in sounds}) == 1
    assert abs(count / 25 - len(sounds[0]) / 22050) <= 1 / 25
    for person in known["people"]:
        assert len(person["frames"]) == count
        assert all(len(frame["box"]) == 4 for frame in person["frames"])


def test_the_video_has_the_mixed_audio(folder: Path) -> None:
    sounds = np.stack([read_audio(folder / f"speech_{index}.wav", sample_rate=16000) for index in range(3)])
    mixed = read_audio(folder / "video.mp4", sample_rate=16000)
    count = min(sounds.shape[1], len(mixed))
    assert np.corrcoef(sounds.sum(0)[:count], mixed[:count])[0, 1] > 0.97
    assert np.abs(mixed).max() < 1


def test_listeners_are_silent_with_the_mouth_closed(folder: Path, known: dict[str, Any]) -> None:
    assert [person["speaks"] for person in known["people"]] == [True, True, False]
    assert [person["text"] for person in known["people"]] == ["Mow.", "Pip.", ""]
    loudest = [np.abs(read_audio(folder / f"speech_{index}.wav", sample_rate=22050)).max() for index in range(3)]
    assert loudest[2] == 0
    assert min(loudest[:2]) > 0.5
    widest = [max(frame["mouth_open"] for frame in person["frames"]) for person in known["people"]]
    assert widest[2] < 0.01
    assert min(widest[:2]) > 0.1
    assert {frame["phoneme"] for frame in known["people"][2]["frames"]} == {"_"}


def test_people_move_independently(known: dict[str, Any]) -> None:
    for name in ("yaw", "gaze_x", "brow", "smile"):
        tracks = [[frame[name] for frame in person["frames"]] for person in known["people"]]
        assert len({tuple(track) for track in tracks}) == 3, name
    assert len({person["expression"] for person in known["people"]}) == 3


def test_boxes_follow_the_camera_and_the_head(known: dict[str, Any]) -> None:
    """A face's position is the head's own motion plus the camera's shift."""
    camera = np.array(known["jitter"])[:, 0] * WIDE[1]
    for person in known["people"]:
        boxes = np.array([frame["box"] for frame in person["frames"]])
        middle = (boxes[:, 0] + boxes[:, 2]) / 2
        own = np.array([[1, *(frame[name] for name in ("x", "yaw", "roll"))] for frame in person["frames"]])

        def left_over(places: np.ndarray, own: np.ndarray = own) -> float:
            return float(np.abs(places - own @ np.linalg.lstsq(own, places, rcond=None)[0]).max())

        assert left_over(middle - camera) < 0.4
        assert left_over(middle) > 2 * left_over(middle - camera)


def test_the_portrait_is_everyone_at_rest(folder: Path) -> None:
    assert np.array_equal(read_image(folder / "portrait.png"), make_group_renderer(PLAN, WIDE, 1.0).portrait())


@pytest.mark.slow
def test_rendering_is_reproducible(folder: Path, tmp_path: Path) -> None:
    write_group_clip(PLAN, WIDE, 1.0, tmp_path / PLAN.name)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / PLAN.name / path.name).read_bytes(), path.name


def test_performances_are_reproducible(known: dict[str, Any]) -> None:
    first, second = perform_group(PLAN), perform_group(PLAN)
    for one, other, person in zip(first.performances, second.performances, known["people"], strict=True):
        assert one.animation == other.animation
        assert np.array_equal(one.speech.samples, other.speech.samples)
        assert [frame["yaw"] for frame in person["frames"]] == [round(state.yaw, 5) for state in one.animation.states]


def test_another_seed_changes_positions_and_motion() -> None:
    roles = (SpeakingRole(31, "Mow."), SpeakingRole(20, ""))
    plans = [GroupClipPlan(20, 0, roles, seed) for seed in (0, 1)]
    first, second = (perform_group(plan) for plan in plans)
    assert first.performances[0].animation.states != second.performances[0].animation.states
    assert make_group_renderer(plans[0], SIZE, 1.0).placements != make_group_renderer(plans[1], SIZE, 1.0).placements


def test_the_camera_jitter_has_the_requested_strength() -> None:
    path = camera_path(500, 0.01, np.random.default_rng(0))
    assert path.shape == (500, 2)
    assert np.sqrt((path**2).mean(0)) == pytest.approx([0.01, 0.01], rel=0.1)
    assert np.abs(path).max() <= 0.03
    assert np.diff(path, axis=0).std() < 0.2 * path.std(), "smooth: independent steps would have 1.4 times"
    assert not camera_path(500, 0.0, np.random.default_rng(0)).any()

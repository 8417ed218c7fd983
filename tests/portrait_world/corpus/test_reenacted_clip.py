"""Tests of ground-truth cross-reenactment: the portrait's people with the drivers' performances."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import read_audio, read_image, read_video
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan
from fantasytalking.portrait_world.corpus.recorded_clips import load_recorded_clip
from fantasytalking.portrait_world.corpus.reenacted_clip import render_reenactment
from tests.helpers.errors import raises_input_error
from tests.helpers.scripts import run_script

GROUPS = GroupCorpusPlan(range(1005, 1007), ("Hop.",), 2, (160, 96), jitter=0.01)
MOVED = ("yaw", "pitch", "roll", "blink", "brow", "smile", "gaze_x", "gaze_y", "phoneme")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one/: id1000_s0000, id1000_s0001 and id1001_s0000; two/: g1005_s0000. No test needs the others of the plans."""
    world = tmp_path_factory.mktemp("reenactment")
    people = CorpusPlan(range(1000, 1002), ("Pip.", "Big bees."), size=96, seed=1)
    for plan, folder, count in ((people, "one", 3), (GROUPS, "two", 1)):
        assert list(islice(make_corpus(plan, world / folder), count + 1))[-1][0] == count
    return world


def known(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth.json").read_text())


def test_self_reenactment_equals_the_recorded_video(world: Path, tmp_path: Path) -> None:
    clip = world / "one" / "id1000_s0000"
    assert render_reenactment(clip, [clip], tmp_path / "same") == len(known(clip)["frames"])
    for name in ("video.mp4", "portrait.png", "speech.wav"):
        assert (tmp_path / "same" / name).read_bytes() == (clip / name).read_bytes(), name
    assert known(tmp_path / "same") == known(clip) | {"drivers": [1000]}


def test_another_person_performs_the_driving_performance(world: Path, tmp_path: Path) -> None:
    portrait, driver = world / "one" / "id1000_s0001", world / "one" / "id1001_s0000"
    render_reenactment(portrait, [driver], tmp_path / "cross")
    written, driving = known(tmp_path / "cross"), known(driver)
    assert (written["identity"], written["drivers"], written["text"]) == (1000, [1001], "Pip.")
    for name in MOVED:
        assert [frame[name] for frame in written["frames"]] == [frame[name] for frame in driving["frames"]]
    opening = [np.array([frame["mouth_open"] for frame in values["frames"]]) for values in (written, driving)]
    assert np.abs(opening[0] - opening[1]).max() < 0.03
    assert (tmp_path / "cross" / "speech.wav").read_bytes() == (driver / "speech.wav").read_bytes()
    assert np.array_equal(read_image(tmp_path / "cross" / "portrait.png"), read_image(portrait / "portrait.png"))
    frames = read_video(tmp_path / "cross" / "video.mp4").frames.astype(float)
    person, other = (read_image(clip / "portrait.png").astype(float) for clip in (portrait, driver))
    assert np.abs(frames - person).mean() < 0.5 * np.abs(frames - other).mean()


def test_each_person_of_a_group_performs_the_own_driver(world: Path, tmp_path: Path) -> None:
    group = world / "two" / "g1005_s0000"
    drivers = [world / "one" / "id1001_s0000", world / "one" / "id1000_s0001"]
    driving = [known(driver) for driver in drivers]
    count = render_reenactment(group, drivers, tmp_path / "driven")
    lengths = [len(truth["frames"]) for truth in driving]
    assert count == min(lengths) < max(lengths)
    written = known(tmp_path / "driven")
    assert written["drivers"] == [1001, 1000]
    for person, truth in zip(written["people"], driving, strict=True):
        for name in MOVED:
            assert [frame[name] for frame in person["frames"]] == [frame[name] for frame in truth["frames"][:count]]
    identities = [person["identity"] for person in known(group)["people"]]
    assert [person["identity"] for person in written["people"]] == identities
    assert not np.any(written["jitter"])
    assert np.array_equal(read_image(tmp_path / "driven" / "portrait.png"), read_image(group / "portrait.png"))
    audio = [read_audio(tmp_path / "driven" / f"speech_{index}.wav", sample_rate=22050) for index in range(2)]
    assert len(audio[0]) == len(audio[1])
    assert abs(len(audio[0]) / 22050 - count / 25) <= 1 / 25


def test_the_plan_of_a_clip_is_read_back(world: Path) -> None:
    read = load_recorded_clip(world / "two" / "g1005_s0000")
    assert read.plan == next(iter(GROUPS.clips()))
    assert (read.size, read.zoom) == ((160, 96), 1.0)


def test_invalid_clips_are_rejected(world: Path, tmp_path: Path) -> None:
    one, group = world / "one" / "id1000_s0000", world / "two" / "g1005_s0000"
    with raises_input_error(ErrorCode.conflict, "driver", 1):
        render_reenactment(group, [one], tmp_path / "out")
    with raises_input_error(ErrorCode.conflict, "driver", str(group)):
        render_reenactment(one, [group], tmp_path / "out")
    with raises_input_error(ErrorCode.invalid_type, "clip", tmp_path.name):
        render_reenactment(tmp_path, [one], tmp_path / "out")
    copy = tmp_path / "world" / one.name
    shutil.copytree(one, copy)
    with pytest.raises(InputError) as caught:
        render_reenactment(one, [copy], tmp_path / "out")
    assert str(copy.parent / "corpus.json") in str(caught.value)
    shutil.copy(world / "one" / "corpus.json", copy.parent)
    for change, field in (
        ({"text": "Pop."}, "driver"),
        ({"identity": 1001}, "clip"),
        ({"identity": "x"}, "clip"),
        ({"frames": []}, "driver"),
    ):
        (copy / "truth.json").write_text(json.dumps(known(one) | change))
        with raises_input_error(ErrorCode.malformed_file, field, str(copy)):
            render_reenactment(one, [copy], tmp_path / "out")
    (copy / "truth.json").write_text("[1")
    with raises_input_error(ErrorCode.malformed_file, "truth.json", str(copy / "truth.json")):
        render_reenactment(copy, [one], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_script_renders_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = world / "one" / "id1000_s0000"
    arguments = ["--output", tmp_path / "out", "--portrait", world / "one" / "id1001_s0000", "--driver", driver]
    done = run_script(monkeypatch, capsys, "make_reenactment.py", *arguments)
    assert done.code == 0, done.err
    assert known(tmp_path / "out")["drivers"] == [1000]
    done = run_script(monkeypatch, capsys, "make_reenactment.py", *arguments, "--driver", driver)
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1

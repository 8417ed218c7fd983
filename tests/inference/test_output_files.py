"""What inference writes: under any name, never in place of other files, and nothing unfinished after a signal."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe")

from fantasytalking.common.errors import ErrorCode, exit_cleanly
from fantasytalking.inference.arguments import parse_job
from fantasytalking.inference.cli import run_job
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.inference.provenance import GenerationRecord
from tests.helpers.errors import raises_input_error
from tests.helpers.limits import file_size_limit
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import files, run_infer, write_inputs

LATIN = os.fsdecode(b"lat\xe9")
"""A file name that is not UTF-8."""


@pytest.fixture(scope="module")
def inputs(face_picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), face_picture, random_speech(0.2))


@pytest.fixture
def settings(saved: Path) -> list[object]:
    short = ["--num-inference-steps", 1, "--size", 32, "window_frames=17", "overlap_frames=8"]
    return [*short, f"base={saved}", "adapter=null"]


@pytest.fixture
def options(inputs: Path, settings: list[object]) -> list[object]:
    return ["--image", inputs / "face.png", "--audio", inputs / "speech.wav", *settings]


@pytest.fixture(scope="module")
def made(inputs: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with video.mp4 and its record."""
    folder = tmp_path_factory.mktemp("made")
    arguments = ["--image", inputs / "face.png", "--audio", inputs / "speech.wav", "--output", folder / "video.mp4"]
    arguments += ["--num-inference-steps", 1, "--size", 32, "window_frames=17", "overlap_frames=8"]
    run_job(parse_job([str(item) for item in [*arguments, f"base={saved}", "adapter=null"]], "test"))
    return folder


def test_names_that_are_not_utf8_are_read_written_and_reproduced(capsys, inputs, settings, tmp_path):
    image, audio = (shutil.copy(inputs / name, tmp_path / (LATIN + name)) for name in ("face.png", "speech.wav"))
    output = tmp_path / LATIN / "video.mp4"
    ended = run_infer(capsys, "--image", image, "--audio", audio, "--output", output, "--contact-sheet", *settings)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{tmp_path}/lat\\udce9/video.mp4: ")
    assert files(output.parent) == ["video.json", "video.mp4", "video.sheet.png"]
    record = output.with_suffix(".json")
    assert record.read_bytes().decode("utf-8")  # whoever reads it as UTF-8
    assert GenerationRecord.load(record).image == image
    ended = run_infer(capsys, "--reproduce", record)
    assert ended.code == 0 and "the same bits as recorded" in ended.out
    assert files(output.parent)[:2] == ["video.again.json", "video.again.mp4"]


def test_text_that_is_not_utf8_is_refused_before_the_work(capsys, options, inputs, tmp_path):
    output = tmp_path / "video.mp4"
    for option in ("--prompt", "--negative-prompt"):
        ended = run_infer(capsys, *options, "--output", output, option, f"{LATIN} talks")
        assert ended.code == 2 and "is not UTF-8" in ended.err and "lat\\udce9 talks" in ended.err
    ended = run_infer(capsys, *options, "--output", output, f"adapter={LATIN}")
    assert ended.code == 2 and "is not UTF-8" in ended.err
    assert files(tmp_path) == []


def test_long_names(capsys, options, inputs, settings, tmp_path, monkeypatch):
    ended = run_infer(capsys, *options, "--output", tmp_path / ("n" * 251 + ".mp4"))
    assert ended.code == 2, "the record beside it has a longer name"
    assert "File name too long; choose a shorter name" in ended.err and "load" not in ended.err
    ended = run_infer(capsys, *options, "--output", tmp_path / ("n" * 246 + ".mp4"), "--contact-sheet")
    assert ended.code == 2 and "choose a shorter name" in ended.err
    ended = run_infer(capsys, *options, "--image", tmp_path / ("n" * 300))
    assert ended.code == 2 and "choose a shorter name" in ended.err
    assert files(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    image, audio = (shutil.copy(inputs / name, tmp_path / ("x" * 240 + name)) for name in ("face.png", "speech.wav"))
    job = parse_job([str(item) for item in ("--image", image, "--audio", audio, "--contact-sheet", *settings)], "test")
    assert job.output.parent == Path("outputs") and len(job.output.name) < 200
    other = parse_job([str(item) for item in ("--image", image, "--audio", inputs / "speech.wav", *settings)], "test")
    assert job.output != other.output


@pytest.mark.parametrize("name", ["video.json", "video.sheet.png"])
def test_a_file_that_is_not_ours_is_never_overwritten(capsys, options, tmp_path, name):
    (tmp_path / name).write_text('{"notes": "mine"}')
    ended = run_infer(capsys, *options, "--output", tmp_path / "video.mp4", "--contact-sheet")
    assert ended.code == 2 and f"'{tmp_path / name}' exists and is not of an earlier run" in ended.err
    assert (tmp_path / name).read_text() == '{"notes": "mine"}' and files(tmp_path) == [name]


def test_what_an_earlier_run_wrote_is_replaced(capsys, options, made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "video.sheet.png").touch()
    before = (tmp_path / "video.mp4").read_bytes()
    ended = run_infer(capsys, *options, "--output", tmp_path / "video.mp4", "--contact-sheet", "--seed", 3)
    assert ended.code == 0, ended.err
    assert (tmp_path / "video.mp4").read_bytes() != before and (tmp_path / "video.sheet.png").stat().st_size


def test_the_default_output_replaces_only_videos_with_a_record(inputs, options, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(item) for item in options]
    video = tmp_path / "outputs" / "face_speech.mp4"
    video.parent.mkdir()
    video.touch()
    with raises_input_error(ErrorCode.output_exists, "--output", "outputs/face_speech.mp4"):
        parse_job(arguments, "test")
    shutil.copy(made / "video.json", video.with_suffix(".json"))
    assert parse_job(arguments, "test").output == Path("outputs/face_speech.mp4")


def test_a_record_of_others_writes_nowhere_else_and_shows_no_control_characters(capsys, made, tmp_path):
    record = json.loads((made / "video.json").read_text())
    victim = tmp_path / "victim.mp4"
    victim.write_text("mine")
    record["output"] = f"{tmp_path}/given/../victim.mp4"
    record["versions"]["torch"] = "1.0\x1b]0;owned\x07\nerror: reboot"
    given = tmp_path / "given" / "record.json"
    given.parent.mkdir()
    given.write_text(json.dumps(record))
    ended = run_infer(capsys, "--reproduce", given)
    assert ended.code == 0, ended.err
    assert victim.read_text() == "mine" and json.loads(given.read_text()) == record
    assert files(tmp_path / "given") == ["record.again.json", "record.again.mp4", "record.json"]
    assert "torch was 1.0\\x1b]0;owned\\x07\\nerror: reboot, is" in ended.err
    (given.parent / "record.again.json").unlink()
    ended = run_infer(capsys, "--reproduce", given)
    assert ended.code == 2 and "record.again.mp4' exists without a record" in ended.err


def test_an_output_without_a_name(capsys, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ended = run_infer(capsys, *options, "--output", ".mp4")
    assert ended.code == 2 and "output '.mp4' has no name before .mp4; give one, such as output.mp4" in ended.err


def test_an_output_that_links_to_itself_is_written(capsys, options, tmp_path):
    video = tmp_path / "video.mp4"
    video.symlink_to(video)
    assert run_infer(capsys, *options, "--output", video).code == 0
    assert video.is_file() and not video.is_symlink()


def test_the_home_folder_is_that_of_the_user(options, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [str(item) for item in options]
    assert parse_job([*arguments, "--output=~/x.mp4"], "test").output == tmp_path / "x.mp4"
    assert parse_job([*arguments, "base=~/nano", "prompt=~ 5 people"], "test").config.base == f"{tmp_path}/nano"
    assert parse_job([*arguments, "prompt=about ~5 people"], "test").config.prompt == "about ~5 people"
    unknown = parse_job([*arguments, "--output=~nobody-of-this-name/x.mp4"], "test")
    with raises_input_error(ErrorCode.out_of_range, "output", "~nobody-of-this-name/x.mp4"):
        run_job(unknown)


def test_a_signal_leaves_nothing_behind(capsys, options, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    job = parse_job([str(item) for item in (*options, "--output", tmp_path / "video.mp4")], "test")
    seen: list[str] = []

    def interrupted_load(*_: object) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        exit_cleanly(lambda: print(run_job(job, interrupted_load)))  # type: ignore[arg-type]  # noqa: T201
    assert ended.value.code == 143 and capsys.readouterr().err.endswith("terminated\n")
    assert len(seen) == 2 and all(name.startswith(".video.") for name in seen)
    assert files(tmp_path) == [] and not list(tmp_path.iterdir())


def test_a_disk_that_fills_is_one_line(capsys, options, tmp_path):
    with file_size_limit(2000):
        ended = run_infer(capsys, *options, "--output", tmp_path / "video.mp4", "--contact-sheet")
    assert ended.code == 2 and "Traceback" not in ended.err
    assert ended.messages[-1].startswith(f"error: cannot write '{tmp_path / 'video'}")
    assert "File too large; raise the limit" in ended.messages[-1]
    assert files(tmp_path) == []


def test_what_ships_with_the_package_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = parse_job(["--image", "data/demo/portrait.png", "--audio", "data/demo/speech.wav"], "test")
    assert job.image.is_file() and job.audio_paths[0].is_file()
    assert resolve_model(InferConfig(), has_driving_video=True).paths.keys() >= {"base", "expression_adapter"}

"""Atomic file writes: whole or not at all, on full disks, under odd names, and after kills."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fantasytalking.common import files
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.files import (
    atomic_write,
    atomic_write_text,
    check_has_stem,
    existing_file,
    fingerprint,
    shorten_name,
)
from fantasytalking.evaluation.records import MeasurementSide, save_record
from fantasytalking.media import write_image
from tests.helpers.errors import raises_input_error
from tests.helpers.limits import file_size_limit, small_disk, without_permissions
from tests.helpers.paths import ROOT

NOISE = np.random.default_rng(0).integers(0, 255, (320, 320, 3), dtype=np.uint8)
LATIN = os.fsdecode(b"lat\xe9")
"""A file name that is not UTF-8."""


def test_a_file_appears_whole_and_a_failure_leaves_the_old_one(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
        assert temporary.suffix == ".txt"
    with pytest.raises(ZeroDivisionError), atomic_write(target) as temporary:
        temporary.write_text("two")
        _ = 1 / 0
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_by_its_like_only(tmp_path):
    target = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_write(target) as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
    assert (target / "weights").read_text() == "two"
    (target / "mine").write_text("keep")
    with raises_input_error(ErrorCode.output_exists, "output", str(target)), atomic_write(target) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("three")
    assert sorted(path.name for path in target.iterdir()) == ["mine", "weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_places_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("x")
    with raises_input_error(ErrorCode.output_exists, "output"), atomic_write(tmp_path / "file" / "below"):
        pass
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path)), atomic_write(tmp_path) as temporary:
        temporary.write_text("x")
    with raises_input_error(ErrorCode.missing_file, "portrait", str(tmp_path)):
        existing_file(tmp_path, "portrait")


def write_tensors(path: Path) -> None:
    with atomic_write(path) as temporary:
        save_file({"weight": torch.zeros(50_000)}, temporary)


def write_torch(path: Path) -> None:
    with atomic_write(path) as temporary:
        torch.save({"weight": torch.zeros(50_000)}, temporary)


def write_folder(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.mkdir()
        save_file({"weight": torch.zeros(50_000)}, temporary / "model.safetensors")


WRITERS: dict[str, Callable[[Path], None]] = {
    "text.json": lambda path: atomic_write_text(path, "a" * 200_000),
    "picture.png": lambda path: write_image(path, NOISE),
    "record.npz": lambda path: save_record(path, {MeasurementSide.PREDICTION: {"map": NOISE.astype(float)}}, "1", "0"),
    "weights.safetensors": write_tensors,
    "weights.pt": write_torch,
    "model": write_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_finished_is_one_line_and_leaves_the_old_one(name: str, tmp_path: Path):
    WRITERS[name](tmp_path / name)
    before = fingerprint(tmp_path / name)
    with file_size_limit(4096), raises_input_error(ErrorCode.insufficient_resources, "output", str(tmp_path / name)):
        WRITERS[name](tmp_path / name)
    assert fingerprint(tmp_path / name) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(name: str, tmp_path: Path):
    with (
        small_disk(tmp_path / "disk", 64) as disk,
        raises_input_error(ErrorCode.insufficient_resources, "output", str(disk / name)) as caught,
    ):
        WRITERS[name](disk / name)
    assert "No space left on device" in str(caught.value)


def test_a_read_only_disk_is_one_line(tmp_path: Path):
    with small_disk(tmp_path / "disk", 64, "ro") as disk, raises_input_error(ErrorCode.output_exists) as caught:
        atomic_write_text(disk / "new" / "file.txt", "x")
    assert "Read-only file system" in str(caught.value)


def test_errors_about_other_files_are_not_blamed_on_the_output(tmp_path: Path):
    with pytest.raises(NotADirectoryError), atomic_write(tmp_path / "out.txt"):
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "input.txt").read_text()


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_the_umask_decides_who_may_read(umask: int, file_mode: int, folder_mode: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        for name, write in WRITERS.items():
            write(tmp_path / name)
        with atomic_write(tmp_path / "program") as temporary:
            temporary.touch()
            temporary.chmod(0o700)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop("model") == folder_mode
    assert modes.pop("program") == 0o700 | file_mode, "no bit is taken away"
    assert set(modes.values()) == {file_mode}


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "é" * 125 + ".txt", LATIN + ".txt", "a\nb\x1b[31m.txt"])
def test_every_name_that_the_file_system_takes_can_be_written(name: str, tmp_path: Path):
    atomic_write_text(tmp_path / name, "x")
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("y")
        assert len(os.fsencode(temporary.parent.name)) < 100
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "y")]


@pytest.mark.parametrize("name", ["n" * 256, "n" * 300 + "/file", "é" * 130])
def test_a_name_that_is_too_long_is_refused_before_the_work(name: str, tmp_path: Path):
    with raises_input_error(ErrorCode.output_exists, "output") as caught, atomic_write(tmp_path / name):
        pytest.fail("the work was begun")
    assert "File name too long; choose a shorter name" in str(caught.value)
    assert not list(tmp_path.iterdir())
    with raises_input_error(ErrorCode.missing_file, "audio"):
        existing_file(tmp_path / name, "audio")


def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "speech.wav").touch()
    readable = tmp_path / "secret.wav"
    readable.touch(mode=0o600)
    tmp_path.chmod(0o755)
    with without_permissions():
        for path in (closed / "speech.wav", readable):
            with raises_input_error(ErrorCode.missing_file, "audio", str(path)):
                existing_file(path, "audio")
        for path in (closed / "file.txt", tmp_path / "file.txt"):
            with raises_input_error(ErrorCode.output_exists, "output", str(path)):
                atomic_write_text(path, "x")


def test_a_tilde_that_the_shell_left_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with raises_input_error(ErrorCode.out_of_range, "output", "~/x.txt"):
        atomic_write_text("~/x.txt", "x")
    assert not list(tmp_path.iterdir())
    Path("~notes").mkdir()
    atomic_write_text("~notes/x.txt", "x")
    assert Path("~notes/x.txt").is_file()


def test_only_a_suffix_is_no_name():
    with raises_input_error(ErrorCode.invalid_choice, "--output", "out/.MP4"):
        check_has_stem(Path("out/.MP4"), [".mp4"], "--output")
    check_has_stem(Path("a.mp4"), [".mp4"], "--output")


def test_long_names_are_shortened_and_stay_distinct():
    assert shorten_name("speech", 80) == "speech"
    first, second = (shorten_name("ä" * 200 + end, 80) for end in "ab")
    assert first != second
    assert all(len(name.encode()) <= 80 for name in (first, second))


def test_names_that_are_not_utf8_are_hashed(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LATIN).write_text("x")
    assert len(fingerprint(tmp_path / "folder")) == 64


WRITE_FOREVER = """
import sys, time
from fantasytalking.common.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("part")
    print("writing", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_run_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def next_run() -> set[str]:
        monkeypatch.setattr(files, "_swept", set())
        atomic_write_text(tmp_path / "other.txt", "x")
        return {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}

    foreign = {".git.abcdefgh", ".cache"}
    for name in foreign:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", WRITE_FOREVER, str(tmp_path / "video.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        (own,) = next_run() - foreign
        assert own.startswith(".video.mp4."), "the folder of a process that lives stays"
        writer.send_signal(signal.SIGKILL)
    assert next_run() == foreign


def test_writing_below_a_temporary_path_reports_the_output_and_leaves_no_part(tmp_path: Path):
    target = tmp_path / "model"
    with atomic_write(target) as temporary:
        for path in (temporary / "a" / "text.json", temporary / "picture.png"):
            with atomic_write(path) as inner:
                assert inner == path, "no folder within the folder"
                path.write_text("whole")
        for path in (temporary / "part.txt", temporary / "part"):
            with pytest.raises(ZeroDivisionError), atomic_write(path):
                path.mkdir() if path.name == "part" else path.write_text("part")
                _ = 1 / 0
        atomic_write_text(temporary / "picture.png", "again")
    assert sorted(path.name for path in target.rglob("*")) == ["a", "picture.png", "text.json"]
    assert (target / "picture.png").read_text() == "again"
    with (
        file_size_limit(4096),
        raises_input_error(ErrorCode.insufficient_resources, "output", str(tmp_path / "new")),
        atomic_write(tmp_path / "new") as temporary,
    ):
        WRITERS["text.json"](temporary / "text.json")

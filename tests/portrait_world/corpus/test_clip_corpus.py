"""Tests of corpora: independence of processes and interruptions, and of the training and held-out splits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import read_video
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus, read_sentences
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import start_fork_server
from tests.helpers.paths import ROOT
from tests.helpers.scripts import run_script

SENTENCES = ROOT / "data" / "portrait_world"
SCRIPT = "make_portrait_world.py"
PLAN = CorpusPlan(identities=range(2), sentences=("Pip.", "Mow."), size=96, seed=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("corpus")
    assert list(make_corpus(PLAN, output)) == [(done, 4) for done in range(5)]
    return output


def clip_names(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir() if path.is_dir())


def test_everyone_says_every_sentence(corpus: Path) -> None:
    assert clip_names(corpus) == ["id0000_s0000", "id0000_s0001", "id0001_s0000", "id0001_s0001"]


def test_two_processes_write_the_same_files(corpus: Path, tmp_path: Path) -> None:
    start_fork_server()
    assert list(make_corpus(PLAN, tmp_path, processes=2))[-1] == (4, 4)
    assert clip_names(tmp_path) == clip_names(corpus)
    for name in clip_names(corpus):
        for file in ("truth.json", "speech.wav"):
            assert (tmp_path / name / file).read_bytes() == (corpus / name / file).read_bytes()
        first, second = read_video(corpus / name / "video.mp4").frames, read_video(tmp_path / name / "video.mp4").frames
        assert np.array_equal(first, second)


def test_rendering_resumes(corpus: Path, tmp_path: Path) -> None:
    work = make_corpus(PLAN, tmp_path)
    assert [next(work), next(work)] == [(0, 4), (1, 4)]
    work.close()
    unfinished = tmp_path / ".id0000_s0001.x7"
    unfinished.mkdir()
    finished = clip_names(tmp_path)
    kept = (tmp_path / "id0000_s0000" / "truth.json").stat().st_mtime_ns
    assert "id0000_s0000" in finished
    for name in clip_names(corpus)[2:]:
        shutil.copytree(corpus / name, tmp_path / name)
    assert [done for done, _ in make_corpus(PLAN, tmp_path)] == [3, 4]
    assert clip_names(tmp_path) == clip_names(corpus)
    assert (tmp_path / "id0000_s0000" / "truth.json").stat().st_mtime_ns == kept
    for name in clip_names(corpus):
        assert (tmp_path / name / "truth.json").read_bytes() == (corpus / name / "truth.json").read_bytes()


def test_clips_of_other_settings_are_rejected(corpus: Path) -> None:
    for plan in (
        CorpusPlan(range(2), ("Pip.",), size=128, seed=1),
        CorpusPlan(range(2), ("Pip.",), size=96, seed=1, zoom=1.2),
    ):
        with raises_input_error(ErrorCode.output_exists, "output", str(corpus)) as caught:
            next(make_corpus(plan, corpus))
        assert "'closeness': 1.0" in str(caught.value), "the stored settings are listed under their keys"


@pytest.mark.parametrize(
    "wrong",
    [{"size": 95}, {"size": 514}, {"size": 129}, {"expression": 1.5}, {"body": -0.1}, {"seed": -1}, {"zoom": 0.9}],
)
def test_invalid_plans_are_rejected(wrong: dict[str, float]) -> None:
    ((field, value),) = wrong.items()
    with raises_input_error(ErrorCode.out_of_range, field, value):
        CorpusPlan(range(2), ("Pip.",), **wrong)  # type: ignore[arg-type]


def test_training_and_held_out_sentences_have_nothing_in_common() -> None:
    train = read_sentences(SENTENCES / "sentences_train.txt", range(10))
    held_out = read_sentences(SENTENCES / "sentences_heldout.txt", range(1000, 1010))
    assert len(train) >= 200
    assert len(held_out) >= 60
    assert len(set(train)) == len(train)
    assert not {line.lower() for line in train} & {line.lower() for line in held_out}


@pytest.mark.parametrize(
    ("name", "people"), [("sentences_train.txt", range(1000, 1002)), ("sentences_heldout.txt", range(2))]
)
def test_sentences_of_the_other_split_are_rejected(name: str, people: range) -> None:
    first = (SENTENCES / name).read_text().splitlines()[0]
    with raises_input_error(ErrorCode.conflict, "sentences", first):
        read_sentences(SENTENCES / name, people)


def test_sentences_are_recognized_in_other_files_and_spellings(tmp_path: Path) -> None:
    held_out = (SENTENCES / "sentences_heldout.txt").read_text().splitlines()[3]
    path = tmp_path / "mine.txt"
    path.write_text(f"A line of my own.\n{held_out.upper().rstrip('.')}\n")
    with raises_input_error(ErrorCode.conflict, "sentences", held_out.upper().rstrip(".")):
        read_sentences(path, range(2))
    path.write_text("A line of my own.\n")
    assert read_sentences(path, range(2)) == read_sentences(path, range(5000, 5002)) == ["A line of my own."]


def test_clips_with_other_sentences_are_rejected(corpus: Path) -> None:
    with raises_input_error(ErrorCode.output_exists, "output", str(corpus / "id0000_s0000")):
        next(make_corpus(CorpusPlan(range(2), ("Other words.",), size=96, seed=1), corpus))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", b"...\n", b"x" * 500, b"a\x07b\n", b"a b\n" * 10_001])
def test_unusable_sentences_are_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_sentences(path, range(2))
    assert caught.value.field == "sentences"


def test_the_script_renders_a_clip_with_the_new_and_the_old_option(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("Hop.\n")
    out = tmp_path / "out"
    arguments = ["--identities", "5", "--sentences", lines, "--output", out, "--size", "96"]
    done = run_script(monkeypatch, capsys, SCRIPT, *arguments, "--body-intensity", "0.5")
    assert done.code == 0 and "renamed" not in caplog.text, done.err
    assert json.loads((out / "id0005_s0000" / "truth.json").read_text())["body"] == 0.5
    written = (out / "id0005_s0000" / "video.mp4").stat().st_mtime_ns
    done = run_script(monkeypatch, capsys, SCRIPT, *arguments, "--body", "0.5")
    assert done.code == 0 and "renamed" in caplog.text, done.err
    assert (out / "id0005_s0000" / "video.mp4").stat().st_mtime_ns == written, "the same settings"


def test_the_script_reports_errors_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (("--identities", "9-3"), ("--identities", "0-1", "--size", "9999")):
        arguments = ["--sentences", str(SENTENCES / "sentences_train.txt"), "--output", str(tmp_path / "out"), *wrong]
        done = run_script(monkeypatch, capsys, SCRIPT, *arguments)
        assert done.code == 2
        assert len(done.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()

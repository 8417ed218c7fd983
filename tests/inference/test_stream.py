"""scripts/infer.py --stream from files and pipes to files and pipes: records, replay, mistakes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import SCRIPTS

pytest.importorskip("mediapipe")

from fantasytalking.inference.cli import run_inference_cli
from fantasytalking.media import probe, read_audio, read_video
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import files, run_infer, write_inputs

SCRIPT = SCRIPTS / "infer.py"


@pytest.fixture(scope="module")
def inputs(face_picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), face_picture, random_speech(1.1))


@pytest.fixture
def options(inputs: Path, saved: Path) -> list[object]:
    return [
        *("--stream", "--image", inputs / "face.png", "--num-inference-steps", 1, "--size", 32),
        *(f"base={saved}", "adapter=null", "window_frames=17", "overlap_frames=8"),
    ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_stream_to_a_file_with_its_record_and_reproduction(capsys, options, inputs, tmp_path):
    output = tmp_path / "video.mp4"
    ended = run_infer(capsys, *options, "--audio", inputs / "speech.wav", "--output", output)
    assert ended.code == 0, ended.err
    assert files(tmp_path) == ["video.json", "video.mp4"]
    assert ended.out.startswith(f"{output}: 1.12 s, 32x32, first frame after ") and "frames per second" in ended.out
    info = probe(output)
    assert (info.frames, info.width, info.height) == (28, 32, 32) and info.has_audio
    assert abs(len(read_audio(output)) / 16_000 - 1.12) <= 1 / 25
    record = json.loads((tmp_path / "video.json").read_text())
    result = record["result"]
    assert record["config"]["stream"] is True and record["video_sha256"] == digest(output)
    assert 0 < result["first_frame_after"] < result["seconds_taken"] and result["frames"] == 28
    ended = run_infer(capsys, "--reproduce", tmp_path / "video.json", "--output", tmp_path / "again.mp4")
    assert ended.code == 0 and ended.out.endswith(", the same bits as recorded\n"), ended.err
    assert digest(tmp_path / "again.mp4") == digest(output)


SAMPLES = (np.clip(random_speech(1.1), -1, 1) * 32767).astype("<i2").tobytes()


def check_piped_video(code: int, out: bytes, err: bytes, folder: Path) -> None:
    """Standard output holds the video and nothing else; a file would hold the same."""
    assert code == 0, err.decode()
    assert b"standard output: 1.12 s, 32x32, first frame after" in err
    (folder / "piped.mp4").write_bytes(out)
    assert read_video(folder / "piped.mp4").frames.shape == (28, 32, 32, 3)
    assert len(read_audio(folder / "piped.mp4")) == pytest.approx(1.12 * 16_000, abs=640)


def test_from_a_pipe_to_standard_output(capfdbinary, monkeypatch, options, tmp_path):
    reading, writing = os.pipe()
    assert os.write(writing, SAMPLES) == len(SAMPLES), "a pipe holds them"
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        run_inference_cli([str(item) for item in (*options, "--audio", "-", "--output", "-")], "test")
    check_piped_video(0, *capfdbinary.readouterr(), tmp_path)


@pytest.mark.slow
def test_from_a_pipe_to_a_pipe(options, tmp_path):
    """Nothing that is imported prints either."""
    command = [sys.executable, SCRIPT, *options, "--audio", "-", "--output", "-"]
    ended = subprocess.run([str(item) for item in command], input=SAMPLES, capture_output=True, check=False)
    check_piped_video(ended.returncode, ended.stdout, ended.stderr, tmp_path)


def test_what_came_through_a_pipe_is_kept_for_the_record(capsys, monkeypatch, options, inputs, tmp_path):
    own = tmp_path / "video.wav"  # of whoever records what they pipe
    shutil.copyfile(inputs / "speech.wav", own)
    with own.open("rb") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        ended = run_infer(capsys, *options, "--audio", "-", "--output", tmp_path / "video.mp4")
    assert ended.code == 0, ended.err
    assert files(tmp_path) == ["video.heard.wav", "video.json", "video.mp4", "video.wav"]
    assert digest(own) == digest(inputs / "speech.wav")
    heard = tmp_path / "video.heard.wav"
    np.testing.assert_array_equal(read_audio(heard), read_audio(own))
    record = json.loads((tmp_path / "video.json").read_text())
    assert record["audio"] == str(heard) and record["hashes"]["audio"] == digest(heard)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--audio", "-", "stream=false"], "add --stream"),
        (["--audio", "MISSING.wav"], "does not exist"),
        (["--audio", "FACE"], "cannot be decoded|has no audio track|neither"),
        (["--audio", "SPEECH", "--contact-sheet"], "a stream has no contact sheet"),
        (["--audio", "SPEECH", "--output", "OUT/video.avi"], "does not end in .mp4"),
        (["--audio", "SPEECH", "overlap_frames=12"], "the overlap is 3 latent frames"),
        (["--audio", "SPEECH", "--face-index", 1, "--face-index", 2], "2 faces are selected; a stream has one speaker"),
        (["--audio", "-"], "format MP3"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(capsys, monkeypatch, options, inputs, tmp_path, given, told):
    places = {"FACE": inputs / "face.png", "SPEECH": inputs / "speech.wav", "OUT/video.avi": tmp_path / "video.avi"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sound.mp3").write_bytes(b"ID3" + bytes(100))
    arguments = [item for item in options if item != "--stream" or "stream=false" not in given]
    with (tmp_path / "in" / "sound.mp3").open("rb") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        output = tmp_path / "out" / "video.mp4"
        ended = run_infer(capsys, *arguments, "--output", output, *(places.get(item, item) for item in given))
    assert ended.code == 2 and ended.out == "", ended
    (line,) = (line for line in ended.messages if line.startswith("error: "))
    assert any(part in line for part in told.split("|")), line
    assert files(tmp_path) == ["in/sound.mp3"]

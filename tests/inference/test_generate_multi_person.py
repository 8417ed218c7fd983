"""scripts/infer.py with several sounds and with videos that drive faces: lengths, records, reproduction, mistakes."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mediapipe")

from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.media import probe, read_audio, write_video
from fantasytalking.pipeline.inputs import encode_driving_video
from fantasytalking.pipeline.speakers import DrivingExpression
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from tests.helpers.errors import raises_input_error
from tests.helpers.fantasy_portrait_networks import save_fantasy_portrait
from tests.helpers.tiny_pipeline import EXPRESSION, random_speech
from tests.inference.cli_runner import files, run_infer, write_picture, write_wav
from tests.inference.test_generate import digest
from tests.pipeline.test_pipeline import latents

FRAMES, FPS = 16, 20


@cache
def nod(number: int) -> np.ndarray:
    """(FRAMES, 128, 128, 3) somebody who opens and shuts the mouth and turns the head."""
    sitter, times = PortraitRenderer(make_identity(number), 128), np.arange(FRAMES) / FPS
    states = [
        FaceState(mouth_open=float(0.4 - 0.4 * np.cos(8 * time)), yaw=float(0.2 * np.sin(4 * time))) for time in times
    ]
    return np.stack([sitter.frame(state) for state in states])


@pytest.fixture(scope="module")
def inputs(face_picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_picture(folder / "face.png", face_picture)
    two = np.concatenate([face_picture, face_picture[:, ::-1]], axis=1)
    write_picture(folder / "two.png", two)
    write_wav(folder / "one.wav", random_speech(0.4))
    write_wav(folder / "two.wav", random_speech(0.6, seed=1))
    frames = nod(8)
    write_video(folder / "driver.mp4", frames, fps=FPS)
    write_video(folder / "other.mp4", nod(3), fps=FPS)
    write_video(folder / "crowd.mp4", np.concatenate([frames, frames[:, :, ::-1]], axis=2), fps=FPS)
    write_video(folder / "empty.mp4", [np.full((96, 96, 3), 100, np.uint8)] * 8, fps=FPS)
    write_video(folder / "short.mp4", frames[:3], fps=FPS)
    hidden = frames.copy()
    hidden[4:] = 100
    write_video(folder / "hidden.mp4", hidden, fps=FPS)
    return folder


@pytest.fixture
def options(saved: Path, expressive: Path, tmp_path: Path) -> list[object]:
    return [
        *(
            "--output",
            tmp_path / "video.mp4",
            "--num-inference-steps",
            1,
            f"base={saved}",
            "adapter=null",
            "window_frames=17",
        ),
        *("overlap_frames=8", f"expression_adapter={expressive}"),
    ]


def test_two_sounds_for_two_faces(capsys, options, inputs, tmp_path):
    sounds = ["--audio", inputs / "one.wav", "--audio", inputs / "two.wav"]
    ended = run_infer(capsys, *options, "--image", inputs / "two.png", "--size", "64x32", *sounds)
    assert ended.code == 0, ended.err
    info = probe(tmp_path / "video.mp4")
    assert (info.frames, info.width, info.height) == (15, 64, 32)
    written, one, two = read_audio(tmp_path / "video.mp4"), random_speech(0.4), random_speech(0.6, seed=1)
    mixed = two.copy()
    mixed[: len(one)] += one
    assert np.corrcoef(written[: len(mixed)], mixed[: len(written)])[0, 1] > 0.95
    record = json.loads((tmp_path / "video.json").read_text())
    assert record["audio"] == [str(inputs / "one.wav"), str(inputs / "two.wav")] and record["drive"] == []
    assert {"image", "audio", "audio 2", "base"} == set(record["hashes"]), "nothing drives, so no adapter takes part"
    ended = run_infer(capsys, "--reproduce", tmp_path / "video.json", "--output", tmp_path / "again.mp4")
    assert ended.code == 0 and "the same bits as recorded" in ended.out, ended.err
    turned = [*options, "--image", inputs / "two.png", "--size", "64x32", "--face-index", 2, "--face-index", 1]
    assert run_infer(capsys, *turned, *sounds, "--output", tmp_path / "turned.mp4").code == 0
    assert digest(tmp_path / "turned.mp4") != digest(tmp_path / "video.mp4")
    assert json.loads((tmp_path / "turned.json").read_text())["config"]["face_indices"] == [2, 1]


def test_a_driver_without_sound(capsys, options, inputs, tmp_path):
    drive = [*options, "--image", inputs / "face.png", "--size", 32, "--driving-video"]
    ended = run_infer(capsys, *drive, inputs / "driver.mp4")
    assert ended.code == 0, ended.err
    info = probe(tmp_path / "video.mp4")
    assert (info.frames, info.has_audio) == (FRAMES * 25 // FPS, False), "at the video's rate, not the driver's"
    record = json.loads((tmp_path / "video.json").read_text())
    assert record["audio"] == [] and record["drive"] == [str(inputs / "driver.mp4")]
    assert {"image", "driver", "base", "expression_adapter", "expression_encoder"} == set(record["hashes"])
    ended = run_infer(capsys, "--reproduce", tmp_path / "video.json", "--output", tmp_path / "again.mp4")
    assert ended.code == 0 and "the same bits as recorded" in ended.out, ended.err
    assert run_infer(capsys, *drive, inputs / "other.mp4", "--output", tmp_path / "other.mp4").code == 0
    assert digest(tmp_path / "other.mp4") != digest(tmp_path / "video.mp4")
    record["drive"] = [str(inputs / "other.mp4")]
    (tmp_path / "changed.json").write_text(json.dumps(record))
    ended = run_infer(capsys, "--reproduce", tmp_path / "changed.json")
    assert ended.code == 2 and f"driver '{inputs / 'other.mp4'}' is not what the video was generated from" in ended.err


def test_two_drivers_and_a_sound(capsys, options, inputs, tmp_path):
    given = [
        "--audio",
        inputs / "two.wav",
        "--driving-video",
        inputs / "driver.mp4",
        "--driving-video",
        inputs / "other.mp4",
    ]
    made = [*options, "--image", inputs / "two.png", "--size", "64x32", *given]
    assert run_infer(capsys, *made, "--expression-guidance-scale", 3).code == 0
    assert probe(tmp_path / "video.mp4").frames == 15 and probe(tmp_path / "video.mp4").has_audio
    config = json.loads((tmp_path / "video.json").read_text())["config"]
    assert config["guidance"]["expression"] == {"scale_start": 3.0, "scale_end": 3.0, "stop": 1.0}
    assert run_infer(capsys, *made, "background=nobody", "--output", tmp_path / "other.mp4").code == 0
    assert digest(tmp_path / "other.mp4") != digest(tmp_path / "video.mp4")


def test_the_adapter_is_found_inside_the_base_or_given_as_the_adapter(
    capsys, options, inputs, saved, expressive, tmp_path
):
    plain = [
        "--image",
        inputs / "face.png",
        "--size",
        32,
        "--driving-video",
        inputs / "driver.mp4",
        "--max-seconds",
        0.4,
    ]
    assert run_infer(capsys, *options, *plain).code == 0
    as_adapter = [item for item in options if item != f"expression_adapter={expressive}"]
    as_adapter[as_adapter.index("adapter=null")] = f"adapter={expressive}"
    assert run_infer(capsys, *as_adapter, *plain, "--output", tmp_path / "b.mp4").code == 0
    shutil.copytree(saved, tmp_path / "whole")
    shutil.copytree(expressive, tmp_path / "whole" / "expression_adapter")
    inside = [f"base={tmp_path / 'whole'}", "adapter=null", "expression_adapter=null"]
    assert run_infer(capsys, *options, *plain, *inside, "--output", tmp_path / "c.mp4").code == 0
    assert digest(tmp_path / "video.mp4") == digest(tmp_path / "b.mp4") == digest(tmp_path / "c.mp4")


DRIVEN = ["--driving-video", "driver.mp4"]
MISTAKES: dict[str, tuple[list[str], str]] = {
    "no sound and no driver": ([], "no audio was given; use --audio FILE, or --driving-video FILE"),
    "no such driver": (["--driving-video", "nowhere.mp4"], "driving video 'nowhere.mp4' does not exist"),
    "a sound drives": (["--driving-video", "one.wav"], "has no video track"),
    "a picture drives": (["--driving-video", "face.png"], "cannot be decoded"),
    "a short driver": (["--driving-video", "short.mp4"], "frame(s) at 25 per second; 5 or more are needed"),
    "no face": (["--driving-video", "empty.mp4"], "shows no face"),
    "two faces": (["--driving-video", "crowd.mp4"], "shows 2 faces"),
    "seldom seen": (["--driving-video", "hidden.mp4"], "its face is visible in "),
    "more sounds than faces": (
        ["--audio", "one.wav", "--audio", "two.wav"],
        "1 face was found in the image and 2 are",
    ),
    "no adapter": ([*DRIVEN, "expression_adapter=null"], "expression_adapter=FOLDER"),
    "no such adapter": (
        ["--driving-video", "driver.mp4", "expression_adapter=./nowhere"],
        "'./nowhere' does not exist",
    ),
    "an adapter without it": ([*DRIVEN, "expression_adapter=AUDIO"], "no expression"),
    "expression guidance": (
        ["--driving-video", "driver.mp4", "--expression-guidance-scale", "-1"],
        "guidance.expression.scale_start is -1",
    ),
    "expression scale": ([*DRIVEN, "expression_scale=11"], "expression_scale is 11"),
    "face twice": (
        ["--driving-video", "driver.mp4", "--face-index", "1", "--face-index", "1"],
        "a face was selected twice: 1, 1",
    ),
    "face 0": ([*DRIVEN, "--face-index", "1", "--face-index", "0"], "face_indices is [1, 0]"),
    "two settings of faces": (
        ["--driving-video", "driver.mp4", "face_indices=[1,2]", "face_index=1"],
        "give one of the two",
    ),
    "background": ([*DRIVEN, "background=all"], "background"),
    "a stream": (["--audio", "one.wav", "--audio", "two.wav", "--stream"], "a stream takes one audio"),
    "a reproduction": ([*DRIVEN, "--reproduce", "x.json"], "leave out '--driving-video'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(capsys, options, inputs, adapters, tmp_path, case):
    given, told = MISTAKES[case]
    places = {path.name: path for path in inputs.iterdir()} | {
        "expression_adapter=AUDIO": f"expression_adapter={adapters / 'audio'}"
    }
    image = [] if "--reproduce" in given else ["--image", inputs / "face.png", "--size", 32]
    shared = [] if "--reproduce" in given else options
    ended = run_infer(capsys, *shared, *image, *(places.get(item, item) for item in given))
    assert ended.code == 2 and ended.out == "", ended
    (line,) = (line for line in ended.messages if line.startswith("error: "))
    assert told in line and files(tmp_path) == []


def test_a_driver_that_ends_before_the_sound(capsys, options, inputs, tmp_path):
    write_wav(tmp_path / "long.wav", random_speech(1.5))
    ended = run_infer(
        *(capsys, *options, "--image", inputs / "face.png", "--size", 32),
        *("--audio", tmp_path / "long.wav", "--driving-video", inputs / "driver.mp4"),
    )
    assert ended.code == 2 and "lasts 0.80 s, the audio 1.52 s" in ended.err and "--max-seconds 0.80" in ended.err


def test_what_is_read_from_a_driver(inputs, expressive):
    encoder = ExpressionEncoder.from_pretrained(expressive / "expression_encoder")
    read = encode_driving_video(inputs / "driver.mp4", encoder, FPS)
    assert read.features.shape == (FRAMES, sum(EXPRESSION.dims)) and read.present.all()
    assert torch.isfinite(read.boxes).all() and (read.boxes[:, 2:] > read.boxes[:, :2]).all()
    assert read.features.std(dim=0).max() > 0
    half = encode_driving_video(inputs / "driver.mp4", encoder, FPS, max_seconds=0.4)
    assert len(half.features) == FRAMES // 2
    torch.testing.assert_close(half.features, read.features[: FRAMES // 2], atol=1e-4, rtol=1e-4)
    slower = encode_driving_video(inputs / "driver.mp4", encoder, FPS / 2)
    assert len(slower.features) == FRAMES // 2


def test_a_driver_is_read_by_the_released_front_end(inputs, tmp_path):
    def read(encoder: Path) -> DrivingExpression:
        return encode_driving_video(
            inputs / "driver.mp4", ExpressionEncoder.from_pretrained(encoder), FPS, max_seconds=0.3
        )

    save_fantasy_portrait(tmp_path / "released")
    found = read(tmp_path / "released")
    assert found.features.shape[1] == 554 and found.present.all()
    assert not torch.allclose(read(tmp_path / "released" / "pd_fpg.pth").features, found.features)
    save_fantasy_portrait(tmp_path / "blind", brightness=0.3)
    with raises_input_error(ErrorCode.no_face, "driving_video", 0):
        read(tmp_path / "blind")


def test_a_face_that_goes_carries_what_was_last_seen(inputs, expressive, tmp_path):
    frames = nod(8).copy()
    frames[11:] = 100
    write_video(tmp_path / "gone.mp4", frames, fps=FPS)
    read = encode_driving_video(
        tmp_path / "gone.mp4", ExpressionEncoder.from_pretrained(expressive / "expression_encoder"), FPS
    )
    assert read.present[:11].all() and not read.present[11:].any()
    assert (read.features[11:] == read.features[10]).all()
    with raises_input_error(ErrorCode.no_face, "driving_video"):
        encode_driving_video(
            inputs / "hidden.mp4", ExpressionEncoder.from_pretrained(expressive / "expression_encoder"), FPS
        )


def test_the_pipeline_reads_drivers_itself(driven, pipe, portrait, inputs, expressive):
    encoder = ExpressionEncoder.from_pretrained(expressive / "expression_encoder")
    made = latents(driven, portrait, audio=None, driving_video=inputs / "driver.mp4")
    assert torch.equal(
        made,
        latents(driven, portrait, audio=None, driving_video=encode_driving_video(inputs / "driver.mp4", encoder, 25)),
    )
    with raises_input_error(ErrorCode.not_trained, "driving_video"):
        latents(pipe, portrait, driving_video=str(inputs / "driver.mp4"))
    network, driven.expression_encoder_path = driven.expression_encoder_path, None
    with raises_input_error(ErrorCode.missing_value, "expression_encoder"):
        latents(driven, portrait, driving_video=[inputs / "driver.mp4"])
    driven.expression_encoder_path = network

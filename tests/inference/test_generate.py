"""scripts/infer.py from files to files: lengths, records, reproduction, contact sheets."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("mediapipe")

from PIL import Image

from fantasytalking.media import probe, read_audio, read_image, write_video
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.helpers.scripts import run_as_process
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import files, run_infer, write_inputs, write_wav


@pytest.fixture(scope="module")
def inputs(face_picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), face_picture, random_speech(0.9))


@pytest.fixture
def options(inputs: Path, saved: Path, tmp_path: Path) -> list[object]:
    return [
        *("--image", inputs / "face.png", "--audio", inputs / "speech.wav", "--output", tmp_path / "video.mp4"),
        *(
            "--num-inference-steps",
            2,
            "--size",
            32,
            f"base={saved}",
            "adapter=null",
            "window_frames=17",
            "overlap_frames=8",
        ),
    ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_video_with_its_record_and_sheet(capsys, options, tmp_path):
    ended = run_infer(
        capsys, *options, "--contact-sheet", "--motion", 0.6, "--body-motion", 0.3, "--prompt", "a: ${b} {c}"
    )
    assert ended.code == 0, ended.err
    assert files(tmp_path) == ["video.json", "video.mp4", "video.sheet.png"]
    assert ended.out.startswith(f"{tmp_path / 'video.mp4'}: 0.88 s, 32x32, ") and "per second of video" in ended.out
    for stage in ("load", "encode", "denoise", "decode"):
        assert f"{stage}: 100%" in ended.err
    assert "note: nano was trained on rendered people only" in ended.err
    info = probe(tmp_path / "video.mp4")
    assert (info.frames, info.width, info.height, info.fps) == (22, 32, 32, 25) and info.has_audio
    assert abs(len(read_audio(tmp_path / "video.mp4")) / 16000 - 0.9) <= 1 / 25
    sheet = read_image(tmp_path / "video.sheet.png")
    assert sheet.shape[0] > 300 and sheet.std() > 20
    record = json.loads((tmp_path / "video.json").read_text())
    assert record["video_sha256"] == digest(tmp_path / "video.mp4")
    assert record["config"]["expression_motion"] == 0.6 and record["config"]["body_motion"] == 0.3
    assert record["config"]["prompt"] == "a: ${b} {c}" and record["config"]["seed"] == 0
    assert record["versions"].keys() >= {"python", "torch", "diffusers", "transformers", "numpy", "source"}
    assert 0.3 < record["result"]["face_fraction"] < 0.8 and 0.3 < record["result"]["face_center"][0] < 0.7
    assert "warning: " not in ended.err
    assert record["result"]["frames"] == 22 and record["result"]["motion_normaliser"]["body_high"] == 0.1


@pytest.mark.parametrize(
    "fps", [16, 29.97, pytest.param(23, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]
)
def test_picture_and_sound_end_together(capsys, options, tmp_path, fps):
    assert run_infer(capsys, *options, "--fps", fps, "--num-inference-steps", 1).code == 0
    info = probe(tmp_path / "video.mp4")
    heard = len(read_audio(tmp_path / "video.mp4")) / 16000
    assert abs(info.frames / fps - 0.9) <= 1 / fps and abs(heard - info.frames / fps) <= 1 / fps


def test_what_a_saved_pipeline_brings_itself_is_not_asked_for_silently(capsys, options, inputs, tmp_path):
    ended = run_infer(capsys, *options, f"audio_encoder={inputs}")
    assert ended.code == 2 and "is a saved pipeline, which has its own; set audio_encoder=null" in ended.err
    assert files(tmp_path) == []
    ended = run_infer(capsys, *options, "flow_shift=3", "--num-inference-steps", 1)
    assert ended.code == 0 and "note: flow_shift=3.0 is not used" in ended.err


def test_only_so_many_seconds(capsys, options, tmp_path):
    assert run_infer(capsys, *options, "--max-seconds", 0.4).code == 0
    assert probe(tmp_path / "video.mp4").frames == 10


def test_reproduction_makes_the_same_bits(capsys, options, tmp_path):
    assert run_infer(capsys, *options, "--seed", 7, "--audio-guidance-scale", 3, "guidance.audio.stop=0.5").code == 0
    made = digest(tmp_path / "video.mp4")
    ended = run_infer(capsys, "--reproduce", tmp_path / "video.json", "--output", tmp_path / "again.mp4")
    assert ended.code == 0 and "the same bits as recorded" in ended.out, ended.err
    assert digest(tmp_path / "again.mp4") == made
    assert run_infer(capsys, *options, "--seed", 8, "--output", tmp_path / "other.mp4").code == 0
    assert digest(tmp_path / "other.mp4") != made


def test_reproduction_in_a_process_of_its_own(capsys, options, tmp_path):
    assert run_infer(capsys, *options).code == 0
    command = ["infer.py", "--reproduce", str(tmp_path / "video.json"), "--output", str(tmp_path / "b.mp4")]
    start_fork_server()
    process = FORK_SERVER.Process(target=run_as_process, args=(tmp_path / "printed", *command))
    process.start()
    process.join()
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 0 and "the same bits as recorded" in printed, printed
    assert digest(tmp_path / "b.mp4") == digest(tmp_path / "video.mp4")


def test_reproduction_reports_what_has_changed(capsys, options, tmp_path):
    assert run_infer(capsys, *options).code == 0
    record = json.loads((tmp_path / "video.json").read_text())
    record["versions"]["torch"] = "1.0"
    del record["drive"]  # as records were before there were drivers
    record["video_sha256"] = "0"
    (tmp_path / "old.json").write_text(json.dumps(record))
    ended = run_infer(capsys, "--reproduce", tmp_path / "old.json")
    assert ended.code == 0 and "NOT the same bits as recorded" in ended.out
    assert "note: torch was 1.0, is " in ended.err
    record["hashes"]["audio"] = "0"
    (tmp_path / "other.json").write_text(json.dumps(record))
    ended = run_infer(capsys, "--reproduce", tmp_path / "other.json")
    assert ended.code == 2 and "is not what the video was generated from" in ended.err


def test_a_few_step_lora_is_part_of_the_record(capsys, options, tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file({"blocks.1.ffn.net.2.diff_b": torch.ones(48)}, lora)
    assert run_infer(capsys, *options).code == 0
    assert (
        run_infer(capsys, *options, f"optimizations.few_step_lora={lora}", "--output", tmp_path / "fast.mp4").code == 0
    )
    assert digest(tmp_path / "fast.mp4") != digest(tmp_path / "video.mp4")
    again = ["--reproduce", tmp_path / "fast.json", "--output", tmp_path / "again.mp4"]
    ended = run_infer(capsys, *again)
    assert ended.code == 0 and "the same bits as recorded" in ended.out, ended.err
    save_file({"blocks.1.ffn.net.2.diff_b": torch.zeros(48)}, lora)
    ended = run_infer(capsys, *again)
    assert ended.code == 2 and f"lora '{lora}' is not what the video was generated from" in ended.err
    lora.unlink()
    ended = run_infer(capsys, *again)
    assert ended.code == 2 and f"'{lora}' does not exist" in ended.err and len(ended.messages) == 1


def test_a_base_with_an_adapter(capsys, options, base, adapters, saved, tmp_path):
    """The parts by themselves make the same video as the saved pipeline, and an adapter's limits are reported."""
    assert run_infer(capsys, *options, "max_text_tokens=12").code == 0
    parts = [*options, f"base={base}", f"adapter={adapters / 'all'}", "max_text_tokens=12", "flow_shift=5"]
    assert run_infer(capsys, *parts, "--output", tmp_path / "parts.mp4").code == 0
    assert digest(tmp_path / "parts.mp4") == digest(tmp_path / "video.mp4")
    heard = [*options, f"base={base}", f"adapter={adapters / 'audio'}", "--output", tmp_path / "heard.mp4"]
    assert run_infer(capsys, *heard).code == 0
    ended = run_infer(capsys, *heard, "--motion", 0.9)
    assert ended.code == 2 and "motion module was never trained" in ended.err


OTHER_PICTURES = ("grey", "cmyk", "16bit", "palette", "webp")
"""Kinds that tests/media/test_image.py reads."""


@pytest.mark.parametrize(
    "kind", ["exif", "alpha", "huge", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHER_PICTURES)]
)
def test_any_picture(capsys, options, face_picture, tmp_path, kind):
    image = Image.fromarray(face_picture)
    path = tmp_path / ("in.webp" if kind == "webp" else "in.jpg" if kind in ("cmyk", "exif", "huge") else "in.png")
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees clockwise
        image.rotate(90, expand=True).save(path, exif=exif)
    elif kind == "16bit":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    elif kind == "huge":
        image.resize((3000, 3000)).save(path)
    else:
        image.convert({"alpha": "RGBA", "grey": "L", "cmyk": "CMYK", "palette": "P"}.get(kind, "RGB")).save(path)
    ended = run_infer(capsys, *options, "--image", path, "--max-seconds", 0.2, "--num-inference-steps", 1)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    "kind", ["8k", "stereo48k", "silence", "10ms", "video", pytest.param("flac", marks=pytest.mark.slow)]
)
def test_any_sound(capsys, options, face_picture, tmp_path, kind):
    path, seconds = tmp_path / "in.wav", 0.3
    if kind == "8k":
        write_wav(path, random_speech(0.6)[::2], rate=8000)
        seconds = 0.6
    elif kind == "stereo48k":
        write_wav(path, np.repeat(random_speech(0.9), 2), rate=48000, channels=2)
    elif kind == "silence":
        write_wav(path, np.zeros(4800))
    elif kind == "10ms":
        write_wav(path, np.ones(160) * 0.5)
        seconds = 0.04
    elif kind == "video":
        path = tmp_path / "in.mp4"
        write_video(path, [face_picture] * 10, fps=25, audio=random_speech(0.4))
        seconds = 0.4
    else:
        import av

        path = tmp_path / "in.flac"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("flac", rate=16000, layout="mono")
            block = av.AudioFrame.from_ndarray(
                (random_speech(0.3)[None] * 32767).astype(np.int16), format="s16", layout="mono"
            )
            block.sample_rate = 16000
            container.mux([*stream.encode(block), *stream.encode(None)])
    options[options.index("--audio") + 1] = path
    ended = run_infer(capsys, *options, "--num-inference-steps", 1)
    assert ended.code == 0, ended.err
    assert probe(tmp_path / "video.mp4").frames == pytest.approx(seconds * 25, abs=1)


@pytest.mark.parametrize("mode", ["fit", "crop"])
def test_a_face_of_unknown_size_is_brought_nearer_or_told(capsys, options, face_picture, tmp_path, mode):
    room = np.full((500, 600, 3), 120, np.uint8)
    room[200:360, 300:460] = face_picture
    Image.fromarray(room).save(tmp_path / "room.png")
    options = [*options, "--image", tmp_path / "room.png", f"resize_mode={mode}", "--num-inference-steps", 1]
    ended = run_infer(capsys, *options, "--max-seconds", 0.3)
    assert ended.code == 0, ended.err
    fraction = json.loads((tmp_path / "video.json").read_text())["result"]["face_fraction"]
    lines = [line for line in ended.err.splitlines() if line.startswith("warning: the face takes ")]
    if mode == "fit":
        assert fraction == pytest.approx(0.425, abs=0.04) and not lines
    else:
        assert fraction < 0.28 and len(lines) == 1
        assert f"{fraction:.0%} of the portrait's height" in lines[0] and "30% to 80%" in lines[0]

"""Mistakes and hostile files: each ends in one line on stderr, exit code 2, and leaves no file behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mediapipe")

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fantasytalking.inference.cli import run_inference_cli
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import files, run_infer, write_picture, write_wav


@pytest.fixture(scope="module")
def inputs(face_picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_picture(folder / "face.png", face_picture)
    write_picture(folder / "two.png", np.concatenate([face_picture, face_picture[:, ::-1]], axis=1))
    write_wav(folder / "speech.wav", random_speech(0.3))
    return folder


@pytest.fixture
def options(inputs: Path, saved: Path, tmp_path: Path) -> list[object]:
    return arguments(inputs, saved, tmp_path / "output" / "video.mp4")


@pytest.fixture(scope="module")
def record(inputs: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a short video."""
    output = tmp_path_factory.mktemp("made") / "video.mp4"
    run_inference_cli([str(item) for item in (*arguments(inputs, saved, output), "--max-seconds", 0.1)], "test")
    return json.loads(output.with_suffix(".json").read_text())


def arguments(inputs: Path, saved: Path, output: Path) -> list[object]:
    return [
        *("--image", inputs / "face.png", "--audio", inputs / "speech.wav", "--output", output),
        *(
            "--num-inference-steps",
            1,
            "--size",
            32,
            f"base={saved}",
            "adapter=null",
            "window_frames=17",
            "overlap_frames=8",
        ),
    ]


def refused(capsys, tmp_path: Path, *arguments: object) -> str:
    """The one line on standard error."""
    ended = run_infer(capsys, *arguments)
    assert ended.code == 2, ended
    assert ended.out == "" and "Traceback" not in ended.err
    (line,) = (line for line in ended.messages if line.startswith("error: "))
    assert ended.err.rstrip().endswith(line) and len(line) < 1200
    assert files(tmp_path / "output") == [] if (tmp_path / "output").exists() else True
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()], "no temporary folder stays"
    return line


OPTIONS: dict[str, tuple[list[object], str]] = {
    "unknown option": (["--moton", 0.5], "unrecognized arguments"),
    "abbreviated option": (["--sec", 1], "unrecognized arguments"),
    "no number": (["--motion", "much"], "invalid float value: 'much'"),
    "motion above 1": (["--motion", 1.5], "expression_motion is 1.5"),
    "motion below 0": (["--body-motion", -0.2], "body_motion is -0.2"),
    "motion is no number": (["--expression-motion", "nan"], "expression_motion is nan"),
    "text guidance": (["--text-guidance-scale", -1], "guidance.text.scale_start is -1"),
    "audio guidance": (["--audio-guidance-scale", "inf"], "guidance.audio.scale_start is inf"),
    "no steps": (["--num-inference-steps", 0], "num_inference_steps is 0"),
    "many steps": (["--num-inference-steps", 100000], "num_inference_steps is 100000"),
    "half a step": (["--num-inference-steps", 2.5], "invalid int value"),
    "seed below 0": (["--seed", -1], "seed is -1"),
    "seed too large": (["--seed", 2**64], "seed is 18446744073709551616"),
    "no frames a second": (["--fps", 0], "fps is 0"),
    "fps is no number": (["--fps", "nan"], "fps is nan"),
    "size": (["--size", 33], "sizes contains 33; width and height must be multiples of 16"),
    "size of text": (["--size", "big"], "size 'big'"),
    "huge size": (["--size", "99984x99984"], "from 32 to 2048 pixels"),
    "no seconds": (["--max-seconds", 0], "max_seconds is 0"),
    "seconds below 0": (["--max-seconds", -3], "max_seconds is -3"),
    "face 0": (["--face-index", 0], "face_index is 0"),
    "face 4 of 1": (["--face-index", 4], "face 4 was selected and 1 found"),
    "long prompt": (["--prompt", "x" * 5000], "prompt has 5000 characters"),
    "no image": (["--image", "nowhere.png"], "image 'nowhere.png' does not exist"),
    "no audio": (["--audio", "nowhere.wav"], "audio 'nowhere.wav' does not exist"),
    "image is a folder": (["--image", "/tmp"], "is a folder, not a file"),
    "no config": (["--config", "nowhere.yaml"], "config 'nowhere.yaml' does not exist"),
    "unknown key": (["sedd=3"], "unknown key 'sedd'; did you mean 'seed'?"),
    "unknown inner key": (["guidance.audoi.stop=1"], "did you mean 'audio'?"),
    "no key": (["=3"], "is not of the form key=value"),
    "no value": (["seed"], "is not of the form key=value"),
    "key of another type": (["max_text_tokens=many"], "max_text_tokens"),
    "share above 1": (["guidance.audio.stop=2"], "guidance.audio.stop is 2"),
    "unknown formula": (["guidance.order=best"], "guidance.order"),
    "color_rescale": (["guidance.color_rescale=3"], "guidance.color_rescale is 3"),
    "window": (["window_frames=16"], "window_frames is 16"),
    "short window": (["window_frames=5"], "window_frames is 5"),
    "overlap": (["overlap_frames=16"], "overlap"),
    "no sizes": (["sizes=[]"], None),  # type: ignore[dict-item]
    "device": (["device=tpu"], "device is 'tpu'"),
    "offload without GPU": (["offload=group", "device=cpu"], "offload is 'group', but the device is the CPU"),
    "interpolation": (["prompt=${nothing}"], "nothing"),
    "model": (["model=huge", "base=null"], "there is no preset 'huge'"),
    "shift": (["flow_shift=0"], "flow_shift is 0"),
    "base": (["base=./nowhere"], "'./nowhere' does not exist"),
    "adapter": (["adapter=./nowhere"], "'./nowhere' does not exist"),
    "face_scale": (["face_scale=50"], "face_scale is 50"),
    "min_face_fraction": (["min_face_fraction=2"], "min_face_fraction is 2"),
    "output is no mp4": (["--output", "video.avi"], "does not end in .mp4"),
    "output below a file": (["--output", "/proc/version/video.mp4"], "cannot write"),
    "reproduction and more": (
        ["--reproduce", "some.json"],
        "leave out '--image'",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(capsys, options, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    given, message = OPTIONS[case]
    if case == "no sizes":
        place = options.index("--size")
        options = options[:place] + options[place + 2 :]
        message = "sizes is empty"
    assert message in refused(capsys, tmp_path, *options, *given)


def test_nothing_given(capsys, tmp_path):
    assert "no image was given; use --image FILE" in refused(capsys, tmp_path)


def test_outputs_do_not_overwrite_what_they_are_made_from(capsys, options, inputs, tmp_path):
    shutil.copy(inputs / "speech.wav", tmp_path / "talk.mp4")
    given = [*options, "--audio", tmp_path / "talk.mp4", "--output", tmp_path / "talk.mp4"]
    assert "would overwrite an input" in refused(capsys, tmp_path, *given)
    assert (tmp_path / "talk.mp4").read_bytes() == (inputs / "speech.wav").read_bytes()


def test_an_output_that_is_a_folder(capsys, options, tmp_path):
    (tmp_path / "video.json").mkdir()
    assert "is a folder" in refused(capsys, tmp_path, *options, "--output", tmp_path / "video.mp4")


def _half(path: Path, source: Path) -> None:
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


IMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty": (lambda path, _: path.touch(), "is empty (0 bytes)"),
    "text": (lambda path, _: path.write_text("a portrait"), "not in a supported format"),
    "sound": (lambda path, inputs: shutil.copy(inputs / "speech.wav", path), "is a sound"),
    "half": (lambda path, inputs: _half(path, inputs / "face.png"), "cannot be decoded"),
    "svg": (lambda path, _: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "is SVG"),
    "bomb": (lambda path, _: Image.new("1", (12000, 9000)).save(path), "the limit is 100000000 pixels"),
    "one pixel": (lambda path, _: Image.new("RGB", (1, 1)).save(path), "give uint8 RGB"),
    "one line": (lambda path, _: Image.new("RGB", (3000, 2)).save(path), "give uint8 RGB"),
    "nobody": (lambda path, _: Image.new("RGB", (200, 200), (90, 120, 150)).save(path), "no face was found"),
    "two people": (lambda path, inputs: shutil.copy(inputs / "two.png", path), "2 faces were found"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images(capsys, options, inputs, tmp_path, case):
    write, message = IMAGES[case]
    write(tmp_path / "image.png", inputs)
    assert message in refused(capsys, tmp_path, *options, "--image", tmp_path / "image.png")


def _silent_video(path: Path) -> None:
    from fantasytalking.media import write_video

    write_video(path.with_suffix(".mp4"), [np.zeros((32, 32, 3), np.uint8)] * 5, fps=25)
    path.with_suffix(".mp4").rename(path)


SOUNDS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty": (lambda path, _: path.touch(), "is empty (0 bytes)"),
    "text": (lambda path, _: path.write_text("la la la"), "cannot be decoded"),
    "picture": (lambda path, inputs: shutil.copy(inputs / "face.png", path), "cannot be decoded"),
    "header": (lambda path, inputs: path.write_bytes((inputs / "speech.wav").read_bytes()[:30]), "cannot be decoded"),
    "no samples": (lambda path, _: write_wav(path, np.zeros(0)), "no audio"),
    "video without sound": (lambda path, _: _silent_video(path), "has no audio track"),
    "playlist": (lambda path, _: path.write_text("#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"), "cannot be decoded"),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_sounds(capsys, options, inputs, tmp_path, case):
    write, message = SOUNDS[case]
    write(tmp_path / "sound.wav", inputs)
    assert message in refused(capsys, tmp_path, *options, "--audio", tmp_path / "sound.wav")


CONFIGS = {
    "not yaml": ("seed: [1", "is not valid YAML"),
    "binary": ("\x00\x01", "is not valid YAML"),
    "a list": ("- seed", "it must hold keys and values"),
    "unknown key": ("sedd: 3", "unknown key 'sedd'"),
    "another type": ("seed: {a: 1}", "seed"),
    "a scalar for a group": ("guidance: 5", "'guidance' is 5"),
    "tag": ("seed: !!python/object/apply:os.system ['true']", "is not valid YAML"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(capsys, options, tmp_path, case):
    text, message = CONFIGS[case]
    (tmp_path / "infer.yaml").write_text(text)
    assert message in refused(capsys, tmp_path, *options, "--config", tmp_path / "infer.yaml")


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _without(path: Path, end: str) -> None:
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if not name.endswith(end)}, path)


def _nan(path: Path) -> None:
    tensors = load_file(path)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, path)


SAVED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "not a saved FantasyTalkingPipeline"),
    "index of another": (
        lambda folder: _edit(folder / "model_index.json", _class_name="Other"),
        "not a saved FantasyTalkingPipeline",
    ),
    "broken index": (lambda folder: (folder / "model_index.json").write_text("{"), "is not valid JSON"),
    "unknown module": (
        lambda folder: _edit(folder / "model_index.json", trained_modules="audio,smell"),
        "trained_modules is ['audio', 'smell']",
    ),
    "modules of another type": (
        lambda folder: _edit(folder / "model_index.json", trained_modules=7),
        "trained_modules is 7",
    ),
    "no text length": (lambda folder: _edit(folder / "model_index.json", text_length="x"), "text_length is 'x'"),
    "no transformer": (lambda folder: shutil.rmtree(folder / "transformer"), "no folder 'transformer'"),
    "transformer cut off": (
        lambda folder: _cut(folder / "transformer" / "diffusion_pytorch_model.safetensors"),
        "cannot be loaded",
    ),
    "transformer lacks a weight": (
        lambda folder: _without(
            folder / "transformer" / "diffusion_pytorch_model.safetensors", "blocks.1.attn2.to_q.weight"
        ),
        "transformer",
    ),
    "transformer of another size": (
        lambda folder: _edit(folder / "transformer" / "config.json", ffn_dim=72),
        "transformer",
    ),
    "transformer's config is text": (
        lambda folder: _edit(folder / "transformer" / "config.json", num_layers="two"),
        "transformer",
    ),
    "VAE cut off": (lambda folder: _cut(folder / "vae" / "diffusion_pytorch_model.safetensors"), "VAE"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
    "another sampler": (
        lambda folder: _edit(folder / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler"),
        "the scheduler in",
    ),
    "a sampler's text": (
        lambda folder: _edit(folder / "scheduler" / "scheduler_config.json", shift="far"),
        "scheduler",
    ),
    "sound at another rate": (
        lambda folder: _edit(folder / "audio_processor" / "preprocessor_config.json", sampling_rate=8000),
        "reads 8000 Hz; 16000 Hz is needed",
    ),
    "face network is text": (lambda folder: (folder / "face_encoder" / "tiny.onnx").write_text("x"), "face encoder"),
    "no face network": (lambda folder: shutil.rmtree(folder / "face_encoder"), "has no face encoder"),
    "two face networks": (
        lambda folder: shutil.copy(folder / "face_encoder" / "tiny.onnx", folder / "face_encoder" / "b.onnx"),
        "holds 2 .onnx files",
    ),
    "motion constants": (
        lambda folder: _edit(folder / "motion_normaliser.json", body_low="x"),
        "motion_normaliser.json",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("case", SAVED)
def test_saved_pipelines(capsys, options, saved, tmp_path, case):
    damage, message = SAVED[case]
    shutil.copytree(saved, tmp_path / "saved")
    damage(tmp_path / "saved")
    line = refused(capsys, tmp_path, *options, f"base={tmp_path / 'saved'}")
    assert message in line


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "adapter.safetensors").unlink(), "does not exist"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "does not exist"),
    "unknown key": (lambda folder: _edit(folder / "config.json", colour="red"), "unknown key 'colour'"),
    "unknown rule": (lambda folder: _edit(folder / "config.json", audio_window="wide"), "audio_window is 'wide'"),
    "modules are text": (lambda folder: _edit(folder / "config.json", modules="audio"), "modules is 'audio'"),
    "later format": (lambda folder: _edit(folder / "config.json", format=9), "format is 9"),
    "weight missing": (
        lambda folder: _without(folder / "adapter.safetensors", "blocks.0.attn2.audio_k_proj.weight"),
        "1 tensors are missing",
    ),
    "no numbers": (lambda folder: _nan(folder / "adapter.safetensors"), "holds NaN"),
    "pickle": (lambda folder: torch.save({}, folder / "adapter.safetensors"), "is not a readable safetensors file"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(capsys, options, base, adapters, tmp_path, case):
    damage, message = ADAPTERS[case]
    shutil.copytree(adapters / "all", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    assert message in refused(capsys, tmp_path, *options, f"base={base}", f"adapter={tmp_path / 'adapter'}")


RECORDS = {
    "no file": (None, "does not exist"),
    "no json": ("{", "is not valid JSON"),
    "a list": ("[]", "a JSON object is needed"),
    "something else": ('{"a": 1}', "is not the record of a video"),
    "later format": ('{"format": 2}', "is not the record of a video"),
    "deep": ("[" * 100000, "is not valid JSON"),
    "large": (" " * (2 << 20), "has more than"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records(capsys, tmp_path, case):
    text, message = RECORDS[case]
    if text is not None:
        (tmp_path / "video.json").write_text(text)
    assert message in refused(capsys, tmp_path, "--reproduce", tmp_path / "video.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"num_inference_steps": "many"}}, "num_inference_steps"),
        ({"config": {"unknown": 1}}, "unknown key"),
        ({"config": {"prompt": "${oc.env:HOME}"}}, None),
        ({"threads": 0}, "threads is 0"),
        ({"audio": ["/nowhere.wav"]}, "audio '/nowhere.wav' does not exist"),
        ({"audio": 3}, "'audio' is missing or has another type"),
        ({"drive": [3]}, "'drive' is missing or has another type"),
        ({"drive": ["/nowhere.mp4"]}, "expression_adapter=FOLDER"),
        ({"image": "/nowhere.png"}, "image '/nowhere.png' does not exist"),
        ({"hashes": {}}, "is not what the video was generated from"),
    ],
)
def test_altered_records(capsys, record, tmp_path, change, message):
    if "config" in change:
        change = {"config": {**record["config"], **change["config"]}}
    (tmp_path / "video.json").write_text(json.dumps({**record, **change}))
    if message is None:  # a prompt is text, never an expression
        ended = run_infer(capsys, "--reproduce", tmp_path / "video.json")
        assert ended.code == 0
        again = json.loads((tmp_path / "video.again.json").read_text())
        assert again["config"]["prompt"] == "${oc.env:HOME}"
    else:
        assert message in refused(capsys, tmp_path, "--reproduce", tmp_path / "video.json")

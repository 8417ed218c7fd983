"""Tests of the build at a tiny size: every step runs, resumes after a kill and is skipped when completed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.manifest import read_manifest
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS as EXPRESSIONS
from fantasytalking.evaluation.features.landmark_expressions import EXPRESSION_CHANNELS
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.nano.build import STEP_NAMES, build_nano
from fantasytalking.nano.config import BuildConfig
from fantasytalking.nano.corpora.video_corpus import (
    held_out_sentences,
    plan_held_out_parts,
    plan_training_parts,
    training_sentences,
)
from fantasytalking.nano.model_card import write_model_card
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.helpers.errors import raises_input_error

ROOT = CONFIGS_FOLDER.parent
SMOKE = CONFIGS_FOLDER / "nano" / "build_smoke.yaml"


def command(folder: Path, *more: str) -> list[str]:
    script = str(ROOT / "scripts" / "build_nano.py")
    settings = [f"work_dir={folder / 'work'}", "num_processes=1", *more]
    return [sys.executable, script, "--config", str(SMOKE), "--output", str(folder / "nano"), *settings]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(folder, *more), capture_output=True, text=True, env=environment, timeout=900)


def test_the_recipe_is_valid_and_assigns_each_group_its_own_sentences() -> None:
    recipe = load_config(BuildConfig, preset_path("nano", "build"))
    parts = plan_training_parts(recipe.videos)
    assert sum(len(part.identities) for part in parts) == recipe.videos.num_identities
    assert max(part.identities[-1] for part in parts) < 1000
    said = [sentence for part in parts for sentence in part.sentences]
    assert set(said) <= set(training_sentences())
    assert len(set(said)) == min(len(said), len(training_sentences()))
    for part in plan_held_out_parts(recipe.videos):
        assert part.identities[0] >= 1000 and set(part.sentences) <= set(held_out_sentences())


def test_an_unknown_step_is_rejected(tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.unknown_key, "until", "vea") as caught:
        build_nano(load_config(BuildConfig, SMOKE), tmp_path / "nano", "vea")
    assert "did you mean 'vae'" in str(caught.value)


def test_steps_that_are_not_selected_are_skipped(tmp_path: Path) -> None:
    config = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"])
    build_nano(config, tmp_path / "nano", only=())
    assert list(tmp_path.iterdir()) == [], "no step was done and no card written"


def test_a_nonempty_output_folder_is_rejected_before_the_first_step(tmp_path: Path) -> None:
    config, output = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"]), tmp_path / "nano"
    (output / "fast").mkdir(parents=True)
    with raises_input_error(ErrorCode.output_exists, "--output", str(output)):
        build_nano(config, output)
    assert not (tmp_path / "work").exists()
    build_nano(config, output, only=())  # without packing, the build continues beside it


@pytest.mark.parametrize(
    ("key", "value", "code", "limit"),
    [
        ("image_size", 100, ErrorCode.out_of_range, "multiple of 16"),
        ("prepared_size", 1024, ErrorCode.out_of_range, "from 32 to 512"),
        ("vae.crop_size", 200, ErrorCode.out_of_range, "multiple of 16"),
        ("vae.crop_size", 112, ErrorCode.conflict, "at most image_size, which is 96"),
        ("vae.clip_frames", 7, ErrorCode.out_of_range, "1 + 4k"),
        ("vae.extended_people", 2, ErrorCode.conflict, "at most extended_videos.num_identities"),
        ("videos.num_identities", 1001, ErrorCode.out_of_range, "1 to 1000"),
        ("device", "tpu", ErrorCode.invalid_choice, "auto, cpu or cuda"),
        ("text_image_encoder.image_size", 100, ErrorCode.conflict, "multiple of text_image_encoder.patch_size"),
        ("expression_encoder.images_per_person", 3, ErrorCode.out_of_range, "4 to 1000"),
        ("multi_person_videos.people_per_video", 4, ErrorCode.out_of_range, "2 to 3"),
        ("multi_person_videos.width", 100, ErrorCode.out_of_range, "multiple of 16"),
    ],
)
def test_settings_out_of_range_are_rejected(key: str, value: object, code: ErrorCode, limit: str) -> None:
    with raises_input_error(code, key, value) as caught:
        load_config(BuildConfig, SMOKE, [f"{key}={value}"])
    assert limit in str(caught.value)


def test_steps_completed_with_other_settings_are_rejected(tmp_path: Path) -> None:
    report = tmp_path / "work" / "reports" / "videos.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"fingerprint": "of another recipe"}))
    config = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"])
    with raises_input_error(ErrorCode.output_exists, "work_dir", str(report)):
        build_nano(config, tmp_path / "nano", "videos")


def test_the_model_card_lists_only_what_was_measured(tmp_path: Path) -> None:
    timed = {"seconds": 90.0, "device": "cpu"}
    face = {"accuracy": 0.987, "people": 60, "cosine_same": 0.8, "cosine_other": 0.1, "steps": 7, "first_loss": 9.0}
    reports = {"face_encoder": face | timed, "pack": {"parts": {"vae": 345_678, "transformer": 12_000_000}} | timed}
    write_model_card(load_config(BuildConfig, preset_path("nano", "build")), reports, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "98.7% of the pairs verified correctly, 60 people" in card and "| face_encoder | 7 | 9 |" in card
    assert "12.35" in card and "3.0" in card and "vae:" in card
    assert "PSNR" not in card and "phoneme, " not in card and "normalized latents" not in card
    vae = {
        "psnr": 30.0,
        "psnr_mouth": 29.0,
        "videos": 2,
        "latent_mean_error": 0.1,
        "latent_deviation_error": 0.1,
    } | timed
    earlier = vae | {"steps": 7, "first_loss": 9.0, "last_loss": 1.0, "seconds_a_step": 1.0}
    read = {f"{kind}_{group}": 0.5 for kind in ("original", "reconstructed") for group in EXPRESSION_CHANNELS}
    for report, shown in ((earlier, False), (earlier | {"psnr_eyes": 28.0} | read, True)):
        write_model_card(load_config(BuildConfig, preset_path("nano", "build")), {"vae": report} | reports, tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "30.00 dB PSNR, 29.00 dB around the mouth" in card
        assert ("28.00 dB around the eyes" in card) == ("gaze 0.50 (0.50)" in card) == shown


def test_the_model_card_describes_driving_videos_when_the_adapter_exists(tmp_path: Path) -> None:
    timed = {"seconds": 60.0, "device": "cpu"}
    read = dict.fromkeys(EXPRESSIONS, 0.5) | {"yaw": 1.0} | timed
    known = {"identity_accuracy": 0.25, "identity_of_crops": 0.75, "identity_chance": 0.05}
    reports = {
        "pack": {"parts": {"vae": 1_000_000}} | timed,
        "expression_encoder": read | known,
        "expression_reader": read,
        "people_videos": {"videos": 180, "videos_alone": 160} | timed,
        "people_prepare": {"clips": 900, "left_out": 3} | timed,
        "more_videos": {"videos": 60} | timed,
        "more_prepare": {"clips": 400, "left_out": 1} | timed,
    }
    config = load_config(BuildConfig, preset_path("nano", "build"))
    write_model_card(config, reports, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "--driving-video" not in card and "| all | 1.00 |" in card
    correlations = "correlation with the ground truth: head 0.60, eye 0.50, emotion 0.50, mouth 0.50"
    assert f"| expression encoder | {correlations} |" in card
    assert "25.0% on its features, 75.0% on the face crops, 5.0% by chance" in card
    assert "180 videos of several people, 160 of one, 900 clips prepared, 3 rejected" in card
    assert "Extended corpus: 60 videos, 400 clips prepared, 1 rejected" in card
    write_model_card(config, reports | {"pack_people": {"parts": {"expression_adapter": 500_000}} | timed}, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "--driving-video" in card and "| expression_adapter | 0.50 |" in card and "| all | 1.50 |" in card


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_build_runs_resumes_after_a_kill_and_skips_completed_steps(tmp_path: Path) -> None:
    # Killed in the middle of whatever it does after the VAE.
    killed = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "work" / "reports" / "vae.json").is_file():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    ended = run(tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert f"[2/{len(STEP_NAMES)}] vae: already done" in ended.stdout
    folder = tmp_path / "nano"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "FantasyTalkingPipeline" and index["text_length"] == 16
    card = (folder / "README.md").read_text()
    assert all(f"| {name} |" in card for name in STEP_NAMES) and "dB PSNR" in card

    # Videos drive its faces, and nothing but its own folders is needed for that.
    model = resolve_model(InferConfig(base=str(folder)), has_driving_video=True)
    assert model.facts.trained_modules == ("audio", "face", "motion", "expression")
    assert model.expression_encoder == folder / "expression_encoder"
    driven = FantasyTalkingPipeline.from_pretrained(folder, expression_adapter=folder / "expression_adapter")
    assert driven.transformer.expression_projector is not None and driven.expression_encoder_path is not None
    records = read_manifest(tmp_path / "work" / "portrait_corpus" / "manifest.jsonl")
    assert {(record.people, record.width, record.height) for record in records} == {(1, 64, 64), (2, 112, 64)}
    assert (tmp_path / "work" / "expression_reader.safetensors").is_file()

    # Nothing is left to do; the finished folder is a base and a set of components for another run.
    again = run(tmp_path)
    assert again.returncode == 0 and again.stdout.count("already done") == len(STEP_NAMES)
    other = run(tmp_path, f"work_dir={tmp_path / 'other'}", f"pretrained_components={folder}", "--until", "stage1")
    assert other.returncode == 0, other.stdout[-3000:] + other.stderr[-3000:]
    assert other.stdout.count("taken from") == 6
    assert (tmp_path / "other" / "stage1" / "adapter" / "adapter.safetensors").is_file()

    # A finished folder alone is reported as such.
    shutil.rmtree(folder / "expression_adapter")
    alone = run(tmp_path, "--until", "pack")
    assert alone.returncode == 0 and "--driving-video" not in (folder / "README.md").read_text()

    # Another recipe must not be mixed in.
    refused = run(tmp_path, "vae.fit.steps=5")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "other settings" in refused.stderr

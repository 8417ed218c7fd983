"""The whole chain at a size that trains nothing: every step runs, is skipped when done, and goes on when killed."""

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
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import read_manifest
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS as EXPRESSIONS
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
from fantasytalking.pipeline.config import InferConfig

ROOT = CONFIGS_FOLDER.parent
SMOKE = CONFIGS_FOLDER / "nano" / "build_smoke.yaml"


def command(folder: Path, *more: str) -> list[str]:
    script = str(ROOT / "scripts" / "build_nano.py")
    settings = [f"work_dir={folder / 'work'}", "num_processes=1", *more]
    return [sys.executable, script, "--config", str(SMOKE), "--output", str(folder / "nano"), *settings]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(folder, *more), capture_output=True, text=True, env=environment, timeout=900)


def test_the_recipe_is_valid_and_gives_every_group_its_own_sentences() -> None:
    recipe = load_config(BuildConfig, preset_path("nano", "build"))
    portions = plan_training_parts(recipe.videos)
    assert sum(len(portion.identities) for portion in portions) == recipe.videos.num_identities
    assert max(portion.identities[-1] for portion in portions) < 1000
    said = [sentence for portion in portions for sentence in portion.sentences]
    assert set(said) <= set(training_sentences())
    assert len(set(said)) == min(len(said), len(training_sentences()))
    for portion in plan_held_out_parts(recipe.videos):
        assert portion.identities[0] >= 1000 and set(portion.sentences) <= set(held_out_sentences())


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no step 'vea'; did you mean 'vae'"):
        build_nano(load_config(BuildConfig, SMOKE), tmp_path / "nano", "vea")


def test_what_is_not_among_the_wanted_steps_is_passed_over(tmp_path: Path) -> None:
    config = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"])
    build_nano(config, tmp_path / "nano", only=())
    assert list(tmp_path.iterdir()) == [], "no step was done and no card written"


def test_a_finished_pipeline_is_told_before_the_first_step(tmp_path: Path) -> None:
    config, output = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"]), tmp_path / "nano"
    (output / "fast").mkdir(parents=True)
    with pytest.raises(InputError, match=r"nano' holds a pipeline or other things already; .*--output"):
        build_nano(config, output)
    assert not (tmp_path / "work").exists()
    build_nano(config, output, only=())  # what leaves packing out goes on beside it


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("size=100", "multiple of 16"),
        ("vae.crop_size=200", "multiple of 16"),
        ("vae.crop_size=112", "images have 96"),
        ("videos.num_identities=1001", "identities is 1001"),
        ("device=tpu", "use auto, cpu or cuda"),
        ("text_image_encoder.patch_size=24", "not a multiple"),
        ("expression_encoder.images_per_person=3", "images_per_person is 3; it must lie from 4"),
        ("multi_person_videos.people_per_video=4", "people_per_video is 4; it must lie from 2 to 3"),
        ("multi_person_videos.width=100", "multiple of 16"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_config(BuildConfig, SMOKE, [setting])


def test_steps_done_with_other_settings_are_told(tmp_path: Path) -> None:
    report = tmp_path / "work" / "reports" / "videos.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"fingerprint": "of another recipe"}))
    config = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}"])
    with pytest.raises(InputError, match=r"videos.json' was made with other settings"):
        build_nano(config, tmp_path / "nano", "videos")


def test_the_card_tells_what_was_measured_and_no_more(tmp_path: Path) -> None:
    timed = {"seconds": 90.0, "device": "cpu"}
    face = {"accuracy": 0.987, "people": 60, "cosine_same": 0.8, "cosine_other": 0.1, "steps": 7, "first_loss": 9.0}
    reports = {"face_encoder": face | timed, "pack": {"parts": {"vae": 345_678, "transformer": 12_000_000}} | timed}
    write_model_card(load_config(BuildConfig, preset_path("nano", "build")), reports, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "98.7% of pairs verified, 60 people" in card and "| face_encoder | 7 | 9 |" in card
    assert "12.35" in card and "3.0" in card and "vae:" in card
    assert "PSNR" not in card and "phoneme, " not in card


def test_the_card_tells_of_faces_that_are_driven_when_they_are(tmp_path: Path) -> None:
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
    assert "--drive" not in card and "| all | 1.00 |" in card
    assert "| expression encoder | correlation with the truth: head 0.60, eye 0.50, emotion 0.50, mouth 0.50 |" in card
    assert "names the person in 25.0% of the pictures, of the cut face in 75.0%, chance in 5.0%" in card
    assert "180 videos of several people, 160 of one, 900 clips prepared, 3 left out" in card
    assert "Corpus of further people: 60 videos, 400 clips prepared, 1 left out" in card
    write_model_card(config, reports | {"pack_people": {"parts": {"expression_adapter": 500_000}} | timed}, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "--drive" in card and "| expression_adapter | 0.50 |" in card and "| all | 1.50 |" in card


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_chain_runs_is_killed_goes_on_and_is_skipped(tmp_path: Path) -> None:
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
    assert f"[2/{len(STEP_NAMES)}] vae: done before" in ended.stdout
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
    assert again.returncode == 0 and again.stdout.count("done before") == len(STEP_NAMES)
    other = run(tmp_path, f"work_dir={tmp_path / 'other'}", f"pretrained_components={folder}", "--until", "stage1")
    assert other.returncode == 0, other.stdout[-3000:] + other.stderr[-3000:]
    assert other.stdout.count("taken from") == 6
    assert (tmp_path / "other" / "stage1" / "adapter" / "adapter.safetensors").is_file()

    # A finished folder alone is told as what it is.
    shutil.rmtree(folder / "expression_adapter")
    alone = run(tmp_path, "--until", "pack")
    assert alone.returncode == 0 and "--drive" not in (folder / "README.md").read_text()

    # Another recipe must not be mixed in.
    refused = run(tmp_path, "vae.fit.steps=5")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "other settings" in refused.stderr

"""Tests of corpora built on first use, with a recipe of two people who say one sentence."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fantasytalking.common.config import CONFIGS_FOLDER, load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.features import load_features
from fantasytalking.data.manifest import read_manifest
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig, ExpressionNetwork
from fantasytalking.motion_normalizer import MotionMeasure, MotionNormalizer
from fantasytalking.nano.bootstrap_corpus import BUILD_RECIPE_FILE, bootstrap_corpus
from fantasytalking.nano.build import STEP_NAMES
from fantasytalking.training.config import TrainConfig
from tests.helpers import tiny_components
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import save_base

SMOKE = CONFIGS_FOLDER / "nano" / "build_smoke.yaml"
MORE_ALONE = "data.manifests=[outputs/nano/more_corpus/manifest.jsonl]"
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from fantasytalking.common.errors import exit_cleanly
from fantasytalking.nano.bootstrap_corpus import bootstrap_corpus
from fantasytalking.training.cli import train
recipe, stage = Path(sys.argv.pop(1)), sys.argv.pop(1)
exit_cleanly(lambda: train(stage, "about", None, partial(bootstrap_corpus, recipe=recipe)))
"""


def nano_config(*more: str, stage: str = "stage1") -> TrainConfig:
    return load_config(TrainConfig, preset_path("nano", stage), more)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a working folder with the encoders that prepare the clips."""
    monkeypatch.chdir(tmp_path)
    base = tiny_components.build_components(tmp_path / "checkpoints" / "nano", audio_dim=128)
    widths = {"text_dim": tiny_components.TEXT_DIM, "image_dim": tiny_components.IMAGE_DIM}
    save_base(base / "transformer", num_layers=2, **widths)
    return tmp_path


@pytest.fixture
def driven(home: Path) -> Path:
    """Returns that folder, with an expression encoder and a motion normalizer in the base."""
    torch.manual_seed(0)
    network = ExpressionNetwork(ExpressionEncoderConfig(channels=[8, 8, 8, 8], hidden=8))
    base = home / "checkpoints" / "nano"
    ExpressionEncoder(network).save_pretrained(base / "expression_encoder")
    measures = [MotionMeasure(expression, body) for expression, body in ((0.001, 0.01), (0.002, 0.03))]
    MotionNormalizer.fit(measures).save(base / "motion_normaliser.json")
    return home


def test_the_recipe_builds_the_corpora_of_the_presets():
    for stage in ("stage1", "stage2"):
        config = load_config(TrainConfig, preset_path("nano", stage))
        assert config.data.manifests == ["outputs/nano/corpus/manifest.jsonl"]
    for stage in ("portrait", "people"):
        assert nano_config(stage=stage).data.manifests == ["outputs/nano/portrait_corpus/manifest.jsonl"]
    both = [f"outputs/nano/{name}/manifest.jsonl" for name in ("corpus", "portrait_corpus")]
    assert nano_config(stage="stage2_people").data.manifests == both
    more = [f"outputs/nano/{name}/manifest.jsonl" for name in ("more_corpus", "portrait_corpus")]
    assert nano_config(stage="stage2_more").data.manifests == more
    assert "work_dir: outputs/nano\n" in BUILD_RECIPE_FILE.read_text()


@pytest.mark.parametrize(
    "config",
    [
        nano_config("data.manifests=[elsewhere/manifest.jsonl]"),
        replace(nano_config(), model="wan14b"),
        nano_config("base=nowhere"),
        nano_config("base=nowhere", stage="portrait"),
        nano_config("base=nowhere", stage="stage2_more"),
        nano_config("data.manifests=[outputs/nano/portrait_corpus/manifest.jsonl,mine.jsonl]", stage="portrait"),
    ],
    ids=["another corpus", "another model", "no encoders", "no encoders, driven", "no encoders, more", "corpora"],
)
def test_other_runs_are_unchanged(home: Path, config: TrainConfig):
    before = sorted(home.rglob("*"))
    bootstrap_corpus(config)
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(("stage", "folder"), [("stage1", "corpus"), ("portrait", "portrait_corpus")])
def test_an_existing_corpus_is_used(home: Path, stage: str, folder: str):
    manifest = home / "outputs" / "nano" / folder / "manifest.jsonl"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("mine\n")
    bootstrap_corpus(nano_config(stage=stage))
    assert manifest.read_text() == "mine\n"
    assert [path.name for path in (home / "outputs" / "nano").iterdir()] == [folder]


def test_a_base_without_expression_encoder_is_rejected_before_rendering(driven: Path):
    base, config = driven / "checkpoints" / "nano", nano_config(stage="portrait")
    (base / "motion_normaliser.json").unlink()
    with raises_input_error(ErrorCode.missing_file, "base", "checkpoints/nano/motion_normaliser.json"):
        bootstrap_corpus(config)
    shutil.rmtree(base / "expression_encoder")
    with raises_input_error(ErrorCode.missing_weights, "base", "checkpoints/nano/expression_encoder") as caught:
        bootstrap_corpus(config)
    assert "build-nano" in str(caught.value)
    assert not (driven / "outputs").exists()


def test_a_base_without_motion_normalizer_is_rejected_before_rendering(driven: Path):
    (driven / "checkpoints" / "nano" / "motion_normaliser.json").unlink()
    with raises_input_error(ErrorCode.missing_file, "base", "checkpoints/nano/motion_normaliser.json"):
        bootstrap_corpus(nano_config(MORE_ALONE, stage="stage2_more"))
    assert not (driven / "outputs").exists()


def launched(home: Path, rank: int, *settings: str, stage: str = "stage1") -> subprocess.Popen[str]:
    """Starts one process of a simulated launch of two."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "PYTHONPATH": str(CONFIGS_FOLDER.parent)}
    command = [sys.executable, "-c", PROGRAM, str(SMOKE), stage, *settings]
    return subprocess.Popen(
        command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_the_first_process_builds_the_corpus_while_the_other_waits(home: Path):
    settings = ["data.manifests=[outputs/nano_smoke/corpus/manifest.jsonl]", "stage.steps=2", "batch=2"]
    other = launched(home, 1, *settings, "output=outputs/other", "data.num_workers=0")
    first = launched(home, 0, *settings, "output=outputs/first", "data.num_workers=0")
    log, other_output = first.communicate(timeout=200)[0], other.communicate(timeout=200)[0]
    assert (first.returncode, other.returncode) == (0, 0), log + other_output
    assert "building the corpus first, once: 3 videos" in log and "about" in log
    assert "process 1 waits for 'outputs/nano_smoke/corpus/manifest.jsonl'" in other_output
    assert f"[7/{len(STEP_NAMES)}] prepare" in log and "step 2/2" in log
    assert len(read_manifest(home / "outputs" / "nano_smoke" / "corpus" / "manifest.jsonl")) >= 2

    # Interrupted before the clips were prepared: only that is done again.
    shutil.rmtree(home / "outputs" / "nano_smoke" / "corpus")
    (home / "outputs" / "nano_smoke" / "reports" / "prepare.json").unlink()
    again = launched(home, 0, *settings, "output=outputs/again", "data.num_workers=0")
    log = again.communicate(timeout=200)[0]
    assert again.returncode == 0, log
    assert "videos: already done" in log and "step 2/2" in log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_portrait_stage_builds_its_corpus_and_leaves_the_base_unchanged(driven: Path):
    base = driven / "checkpoints" / "nano"
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    work = driven / "outputs" / "nano_smoke"
    settings = ["data.manifests=[outputs/nano_smoke/portrait_corpus/manifest.jsonl]", "stage.init_from=null"]
    settings += ["stage.steps=2", "batch=2", "data.num_workers=0"]
    first = launched(driven, 0, *settings, "output=outputs/first", stage="portrait")
    log = first.communicate(timeout=400)[0]
    assert first.returncode == 0, log
    assert "building the corpus first, once: 5 videos" in log and "step 2/2" in log
    assert [path.stem for path in sorted((work / "reports").iterdir())] == ["people_prepare", "people_videos", "videos"]
    records = read_manifest(work / "portrait_corpus" / "manifest.jsonl")
    assert {record.people for record in records} == {1, 2}
    features = [load_features(work / "portrait_corpus" / record.features) for record in records]
    assert all(each.expression is not None and each.boxes is not None for each in features)
    assert {path: path.stat().st_mtime_ns for path in base.rglob("*")} == before

    # Interrupted before the clips were prepared: only that is done again, and nothing is said to be drawn.
    shutil.rmtree(work / "portrait_corpus")
    (work / "reports" / "people_prepare.json").unlink()
    again = launched(driven, 0, *settings, "output=outputs/again", stage="portrait")
    log = again.communicate(timeout=400)[0]
    assert again.returncode == 0, log
    assert "once: 0 videos" in log and "people_videos: already done" in log and "step 2/2" in log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_extended_corpus_is_built_alone_for_the_run_that_uses_it(driven: Path):
    work = driven / "outputs" / "nano_smoke"
    settings = ["data.manifests=[outputs/nano_smoke/more_corpus/manifest.jsonl]", "stage.init_from=null"]
    settings += ["stage.steps=2", "batch=2", "data.num_workers=0"]
    first = launched(driven, 0, *settings, "output=outputs/first", stage="stage2_more")
    log = first.communicate(timeout=400)[0]
    assert first.returncode == 0, log
    assert "building the corpus first, once: 2 videos" in log and "step 2/2" in log
    assert [path.stem for path in sorted((work / "reports").iterdir())] == ["more_prepare", "more_videos"]
    assert sorted(path.name for path in work.iterdir()) == ["more_corpus", "reports", "videos_more"]

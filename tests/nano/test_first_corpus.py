"""The corpus that nano's training makes for itself, with a recipe of two people who say one sentence."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fantasytalking.config import CONFIGS, load_config, preset_path
from fantasytalking.data.manifest import read_manifest
from fantasytalking.nano.build import NAMES
from fantasytalking.nano.first_corpus import RECIPE, make_first_corpus
from fantasytalking.training.config import TrainConfig
from tests import tiny_components
from tests.models.tiny import save_base

SMOKE = CONFIGS / "nano" / "build_smoke.yaml"
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from fantasytalking.errors import exit_cleanly
from fantasytalking.nano.first_corpus import make_first_corpus
from fantasytalking.training.cli import train
recipe = Path(sys.argv.pop(1))
exit_cleanly(lambda: train("stage1", "about", None, partial(make_first_corpus, recipe=recipe)))
"""


def nano_config(*more: str) -> TrainConfig:
    return load_config(TrainConfig, preset_path("nano", "stage1"), more)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the encoders that prepare the clips."""
    monkeypatch.chdir(tmp_path)
    base = tiny_components.build(tmp_path / "checkpoints" / "nano", audio_dim=128)
    widths = {"text_dim": tiny_components.TEXT_DIM, "image_dim": tiny_components.IMAGE_DIM}
    save_base(base / "transformer", num_layers=2, **widths)
    return tmp_path


def test_the_recipe_makes_the_corpus_that_the_presets_train_on():
    for stage in ("stage1", "stage2"):
        config = load_config(TrainConfig, preset_path("nano", stage))
        assert config.data.manifests == ["outputs/nano/corpus/manifest.jsonl"]
    assert "work: outputs/nano\n" in RECIPE.read_text()


@pytest.mark.parametrize(
    "config",
    [
        nano_config("data.manifests=[elsewhere/manifest.jsonl]"),
        replace(nano_config(), model="wan14b"),
        nano_config("base=nowhere"),
    ],
    ids=["another corpus", "another model", "no encoders"],
)
def test_other_runs_are_left_alone(home: Path, config: TrainConfig):
    before = sorted(home.rglob("*"))
    make_first_corpus(config)
    assert sorted(home.rglob("*")) == before


def test_a_corpus_that_is_there_is_taken_as_it_is(home: Path):
    manifest = home / "outputs" / "nano" / "corpus" / "manifest.jsonl"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("mine\n")
    make_first_corpus(nano_config())
    assert manifest.read_text() == "mine\n"
    assert [path.name for path in (home / "outputs" / "nano").iterdir()] == ["corpus"]


def launched(home: Path, rank: int, *settings: str) -> subprocess.Popen[str]:
    """A process as a launcher of two would start it; only its own part of the launch is real."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "PYTHONPATH": str(CONFIGS.parent)}
    command = [sys.executable, "-c", PROGRAM, str(SMOKE), *settings]
    return subprocess.Popen(
        command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_the_first_process_makes_it_while_the_other_waits_and_both_train(home: Path):
    settings = ["data.manifests=[outputs/nano_smoke/corpus/manifest.jsonl]", "stage.steps=2", "batch=2"]
    other = launched(home, 1, *settings, "output=outputs/other", "data.workers=0")
    first = launched(home, 0, *settings, "output=outputs/first", "data.workers=0")
    told, told_other = first.communicate(timeout=200)[0], other.communicate(timeout=200)[0]
    assert (first.returncode, other.returncode) == (0, 0), told + told_other
    assert "so it is made first, once: 3 videos" in told and "about" in told
    assert "process 1 waits for 'outputs/nano_smoke/corpus/manifest.jsonl'" in told_other
    assert f"[7/{len(NAMES)}] prepare" in told and "step 2/2" in told
    assert len(read_manifest(home / "outputs" / "nano_smoke" / "corpus" / "manifest.jsonl")) >= 2

    # Interrupted before the clips were prepared: only that is done again.
    shutil.rmtree(home / "outputs" / "nano_smoke" / "corpus")
    (home / "outputs" / "nano_smoke" / "reports" / "prepare.json").unlink()
    again = launched(home, 0, *settings, "output=outputs/again", "data.workers=0")
    told = again.communicate(timeout=200)[0]
    assert again.returncode == 0, told
    assert "videos: done before" in told and "step 2/2" in told

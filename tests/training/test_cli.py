"""The two scripts: their plan, and one line for whatever cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import InputError
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.training.cli import check_manifests_exist, train
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.stage_config import LossWeight
from tests.training.conftest import Configure
from tests.training.tiny_corpus import config_overrides

ROOT = CONFIGS_FOLDER.parent


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path):
    command = [sys.executable, str(ROOT / "scripts" / "train_stage2.py"), "stage.stepz=3"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert told.returncode == 2
    assert told.stderr.strip().splitlines() == [
        "error: override 'stage.stepz=3': unknown key 'stage.stepz'; did you mean 'steps'? known here: "
        "name, alignment, steps, trainable, init_from, loss, dropout, lora, expression, distillation"
    ]


LIGHT = ["models.transformer", "models.assembly", "checkpoint", "convert", "audio_windows", "pipeline"]
LIGHT += ["pipeline.cli", "pipeline.run", "pipeline.weights", "training"]
WITHOUT_PERCEPTION = """
import importlib, sys
for name in ("mediapipe", "insightface", "decord", "imageio", "cv2", "av", "deepspeed", "wandb", "gradio"):
    sys.modules[name] = None  # as where it is not installed
"""


def test_a_node_without_the_perception_packages_imports_the_models_and_trains_on_a_corpus_that_is_there(
    tmp_path: Path, corpus: Path, base: Path
):
    settings = config_overrides(tmp_path / "run", corpus, base, stage__steps=1)
    program = f"""{WITHOUT_PERCEPTION}
for name in {LIGHT}:
    importlib.import_module("fantasytalking." + name)
from fantasytalking.train import run
run("stage1", "about")
"""
    told = subprocess.run([sys.executable, "-c", program, *settings], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr[-2000:]
    assert (tmp_path / "run" / "adapter" / "adapter.safetensors").is_file()


def test_a_package_that_is_not_installed_is_one_line_with_the_extra_that_brings_it(tmp_path: Path):
    script = str(ROOT / "scripts" / "make_portrait_world.py")
    program = f"{WITHOUT_PERCEPTION}\nimport runpy\nrunpy.run_path({script!r}, run_name='__main__')"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert told.returncode == 2
    assert told.stderr == "error: 'cv2' is not installed: pip install -e '.[data]'\n"


def test_dry_run_tells_the_plan(
    tmp_path: Path, corpus: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    settings = config_overrides(tmp_path / "run", corpus, base)
    monkeypatch.setattr(sys, "argv", ["train_stage1.py", "--dry-run", *settings])
    train("stage1", "about")
    told = capsys.readouterr().out
    for expected in ("alignment: clip", "audio ", "face ", "bucket 64x64, 9 frames at 25 fps: 8 clips", "activations"):
        assert expected in told
    assert not (tmp_path / "run").exists()


def test_without_a_corpus_the_command_that_makes_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_stage1.py"])
    with pytest.raises(InputError, match=r"python scripts/build_nano\.py"):
        train("stage1", "about")
    assert not list(tmp_path.iterdir())
    config = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "stage1.yaml")
    with pytest.raises(InputError, match=r"scripts/prepare_data\.py --config configs/wan14b/data\.yaml"):
        check_manifests_exist(config)
    for preset in ("nano", "wan14b"):
        config = load_config(TrainConfig, CONFIGS_FOLDER / preset / "portrait.yaml")
        with pytest.raises(InputError, match=rf"configs/{preset}/data\.yaml .* expression_encoder=FOLDER"):
            check_manifests_exist(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch is 0; it must be 1 to"),
        ({"stage__loss__eta": 1.5}, r"loss.eta is 1.5; it must be 0 to 1"),
        ({"stage__dropout__audio": -0.1}, "dropout.audio is -0.1"),
        ({"stage__alignment": "phrase"}, "alignment"),
        ({"stage__trainable": "[]"}, "stage.trainable is empty"),
        ({"optimizer__learning_rate": "nan"}, "optimizer.learning_rate is nan"),
        ({"logging__trackers": "[comet]"}, "logging.trackers has 'comet'"),
        ({"validation__interval": 10}, "validation.image is not given"),
        ({"data__max_text_tokens": 0}, "text_length is 0"),
        ({"data__manifests": "[]"}, "data.manifests is empty"),
        ({"stage__lora__rank": -1}, "lora.rank is -1"),
    ],
)
def test_values_outside_their_limits_are_refused(configure: Configure, changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        configure(**changes)


@pytest.mark.parametrize("preset", ["nano", "wan1.3b", "wan14b"])
def test_presets_are_the_paper_s_two_stages(preset: str):
    first, second = (load_config(TrainConfig, CONFIGS_FOLDER / preset / f"stage{number}.yaml") for number in (1, 2))
    assert (first.stage.alignment, first.stage.loss.weight) == (AudioAlignment.clip, LossWeight.uniform)
    assert (second.stage.alignment, second.stage.loss.weight) == (AudioAlignment.frame, LossWeight.lip)
    assert second.stage.init_from == f"{first.output}/adapter"
    for config in (first, second):
        assert config.model == preset
        assert config.stage.loss.eta == 0.2
        dropout = config.stage.dropout
        assert (dropout.reference, dropout.audio, dropout.prompt) == (0.1, 0.1, 0.1)
        base = ["base"] if preset == "nano" else []  # what is small trains as a whole
        assert config.stage.trainable == [*base, "audio", "face", "motion"]

"""The training scripts: plan, configuration and one line per mistake."""

import logging
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fantasytalking.cli import run
from fantasytalking.common.config import CONFIGS_FOLDER, load_config, save_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import AudioAlignment
from fantasytalking.models.presets import model_presets
from fantasytalking.training.cli import check_manifests_exist, configure_logging, train
from fantasytalking.training.config import MixedPrecision, TrainConfig
from fantasytalking.training.stage_config import LossWeight
from tests.helpers.errors import raises_input_error
from tests.helpers.scripts import run_script
from tests.training.conftest import Configure
from tests.training.tiny_corpus import config_overrides

ROOT = CONFIGS_FOLDER.parent


def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    ended = run_script(monkeypatch, capsys, "train_stage2.py", "stage.stepz=3")
    assert ended.code == 2
    assert ended.err.strip().splitlines() == [
        "error: override 'stage.stepz=3': unknown key 'stage.stepz'; did you mean 'steps'? known here: "
        "name, alignment, steps, objective, trainable, init_from, expert, loss, dropout, lora, expression, conditions, "
        "distillation"
    ]


LIGHT = ["models.transformer", "models.wan_loading", "checkpoints.adapter", "checkpoints.convert", "audio_windows"]
LIGHT += ["pipeline", "inference.cli", "inference.generate", "inference.model_sources", "training"]
OPTIONAL = ("mediapipe", "insightface", "decord", "imageio", "cv2", "av", "deepspeed", "wandb", "gradio")
WITHOUT_PERCEPTION = f"""
import importlib, sys
for name in {OPTIONAL}:
    sys.modules[name] = None  # as where it is not installed
"""


def test_a_run_needs_no_perception_packages(
    tmp_path: Path, corpus: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """While it runs; tests/test_architecture.py looks at what is imported before."""
    for name in OPTIONAL:
        for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    settings = config_overrides(tmp_path / "run", corpus, base, stage__steps=1)
    run(["train", "--config", "configs/nano/stage1.yaml", *settings])
    assert (tmp_path / "run" / "adapter" / "adapter.safetensors").is_file()


@pytest.mark.slow
def test_training_on_an_existing_corpus_needs_no_perception_packages(tmp_path: Path, corpus: Path, base: Path):
    settings = config_overrides(tmp_path / "run", corpus, base, stage__steps=1)
    program = f"""{WITHOUT_PERCEPTION}
for name in {LIGHT}:
    importlib.import_module("fantasytalking." + name)
from fantasytalking.cli import run
run(["train", "--config", "configs/nano/stage1.yaml", *sys.argv[1:]])
"""
    completed = subprocess.run([sys.executable, "-c", program, *settings], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert (tmp_path / "run" / "adapter" / "adapter.safetensors").is_file()


def test_a_missing_package_names_its_extra_in_one_line(tmp_path: Path):
    script = str(ROOT / "scripts" / "make_portrait_world.py")
    program = f"{WITHOUT_PERCEPTION}\nimport runpy\nrunpy.run_path({script!r}, run_name='__main__')"
    arguments = ["--identities", "0-0", "--sentences", "data/portrait_world/sentences_train.txt", "--output", "out"]
    command = [sys.executable, "-c", program, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert completed.returncode == 2
    assert completed.stderr == "error: 'cv2' is not installed: pip install -e '.[data]'\n"


def test_dry_run_prints_the_plan(
    tmp_path: Path, corpus: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    settings = config_overrides(tmp_path / "run", corpus, base)
    monkeypatch.setattr(sys, "argv", ["train_stage1.py", "--dry-run", *settings])
    train("stage1", "about")
    output = capsys.readouterr().out
    for expected in ("alignment: clip", "audio ", "face ", "bucket 64x64, 9 frames at 25 fps: 8 clips", "activations"):
        assert expected in output
    assert not (tmp_path / "run").exists()


def test_a_missing_corpus_names_the_command_that_creates_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_stage1.py"])
    with raises_input_error(ErrorCode.missing_file, "data.manifests") as caught:
        train("stage1", "about")
    assert "fantasytalking build-nano" in str(caught.value)
    assert not list(tmp_path.iterdir())
    config = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "stage1.yaml")
    with raises_input_error(ErrorCode.missing_file, "data.manifests", config.data.manifests[0]) as caught:
        check_manifests_exist(config)
    assert "fantasytalking prepare --config configs/wan14b/data.yaml" in str(caught.value)
    for preset in ("nano", "wan14b"):
        config = load_config(TrainConfig, CONFIGS_FOLDER / preset / "portrait.yaml")
        with raises_input_error(ErrorCode.missing_file, "data.manifests", config.data.manifests[0]) as caught:
            check_manifests_exist(config)
        assert f"configs/{preset}/data.yaml" in str(caught.value)
        assert "expression_encoder=FOLDER" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "field", "value"),
    [
        (ErrorCode.out_of_range, "batch_size", 0),
        (ErrorCode.out_of_range, "stage.loss.eta", 1.5),
        (ErrorCode.out_of_range, "stage.dropout.audio", -0.1),
        (ErrorCode.out_of_range, "stage.lora.rank", -1),
        (ErrorCode.out_of_range, "optimizer.beta1", 1.0),
        (ErrorCode.missing_value, "stage.trainable", []),
        (ErrorCode.missing_value, "data.manifests", []),
    ],
)
def test_values_out_of_range_raise(configure: Configure, code: ErrorCode, field: str, value: object):
    with raises_input_error(code, field, value):
        configure(**{field.replace(".", "__"): value})


def test_unusable_settings_raise(configure: Configure):
    with raises_input_error(ErrorCode.out_of_range, "optimizer.learning_rate") as caught:
        configure(optimizer__learning_rate="nan")
    assert isinstance(caught.value.value, float) and math.isnan(caught.value.value)
    with raises_input_error(ErrorCode.invalid_choice, "logging.trackers", "comet"):
        configure(logging__trackers="[comet]")
    with raises_input_error(ErrorCode.missing_value, "validation.image"):
        configure(validation__interval=10)
    with raises_input_error(ErrorCode.missing_value, "validation.audio"):
        configure(validation__interval=10, validation__image="portrait.png")
    with raises_input_error(ErrorCode.conflict, "validation.driving_videos", ["face.mp4"]):
        configure(validation__driving_videos="[face.mp4]")
    with pytest.raises(InputError, match="alignment"):
        configure(stage__alignment="phrase")
    with pytest.raises(InputError, match="is 0"):
        configure(data__max_text_tokens=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", MixedPrecision.no),
        ("fp32", MixedPrecision.no),
        ("'no'", MixedPrecision.no),
        ("bf16", MixedPrecision.bf16),
    ],
)
def test_mixed_precision_is_read_from_overrides_and_yaml(
    configure: Configure, tmp_path: Path, text: str, expected: MixedPrecision
):
    """YAML reads an unquoted no as False."""
    assert configure(mixed_precision=text).mixed_precision is expected
    for key in ("mixed_precision", "precision"):
        file = tmp_path / "precision.yaml"
        file.write_text(f"{key}: {text}\n")
        config = load_config(TrainConfig, file, config_overrides(tmp_path, tmp_path, tmp_path, mixed_precision=text))
        assert config.mixed_precision is expected
        save_config(config, tmp_path / "saved.yaml")
        assert load_config(TrainConfig, tmp_path / "saved.yaml").mixed_precision is expected


@pytest.mark.parametrize("preset", model_presets())
def test_presets_follow_the_two_stages_of_the_paper(preset: str):
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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_warning_of_every_process_is_printed_once(rank: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", str(rank))
    package = logging.getLogger("fantasytalking")
    handlers, propagate, level = list(package.handlers), package.propagate, package.level
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            configure_logging()
            warnings.warn("Mismatch dtype between input and weight: input dtype = c10::BFloat16", stacklevel=1)
            warnings.warn("another", stacklevel=1)
    finally:
        package.handlers, package.propagate = handlers, propagate
        package.setLevel(level)
    assert len(caught) == 2 - rank

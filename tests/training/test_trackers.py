"""Trackers know the configuration, and a resumed run continues its wandb run."""

from pathlib import Path

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trackers import flat_settings, wandb_run_id
from fantasytalking.training.trainer import Trainer
from tests.helpers.fork_server import run_in_fork
from tests.training.conftest import Configure


def test_a_run_keeps_its_wandb_id_and_no_two_runs_share_one(tmp_path: Path):
    first, second = tmp_path / "machine1" / "run", tmp_path / "machine2" / "run"
    for folder in (first, second):
        folder.mkdir(parents=True)
    assert wandb_run_id(first) == wandb_run_id(first) != wandb_run_id(second)
    first.rename(tmp_path / "moved")
    assert wandb_run_id(tmp_path / "moved") == (tmp_path / "moved" / "wandb_id.txt").read_text().strip()


def test_a_run_of_an_earlier_release_continues_its_wandb_run(tmp_path: Path):
    for name in ("offline-run-20250101_120000-other", "offline-run-20250102_120000-home-me-outputs-run"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_run_id(tmp_path) == "home-me-outputs-run"


def test_the_configuration_reaches_the_trackers(configure: Configure):
    config = configure(logging__trackers="[tensorboard]", stage__steps=1)
    Trainer(config).train()
    events = b"".join(path.read_bytes() for path in Path(config.output).rglob("events.out.tfevents.*"))
    assert b"optimizer.learning_rate" in events and b"stage.loss.weight" in events


def test_settings_are_flat_and_of_plain_types():
    flat = flat_settings(load_config(TrainConfig, preset_path("wan14b", "stage2")))
    assert flat["stage.loss.weight"] == "lip" and flat["stage.loss.eta"] == 0.2
    assert flat["stage.trainable"] == '["audio", "face", "motion"]' and flat["base"] == "null"
    assert all(type(value) in (int, float, str, bool) for value in flat.values())


def train(config: TrainConfig) -> None:
    Trainer(config).train()


def test_a_disabled_wandb_writes_nothing(configure: Configure):
    """tests/training/test_validation_sampler.py records a run offline."""
    config = configure(logging__trackers="[wandb]", logging__wandb_mode="disabled", stage__steps=1)
    run_in_fork(train, config)
    assert not list(Path(config.output).glob("wandb/**/*.wandb"))

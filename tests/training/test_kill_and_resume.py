"""Kills a run by SIGKILL and repeats the command."""

import signal
import time
from pathlib import Path

import pytest
import torch

from fantasytalking.common.config import load_config
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from tests.helpers.fork_server import FORK_SERVER, run_in_fork
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors, read_losses
from tests.training.tiny_corpus import config_overrides

CHANGES = {"stage__steps": 12, "checkpoints__interval": 2, "optimizer__ema_decay": 0.9}


def train(config: TrainConfig) -> None:
    torch.set_num_threads(1)
    Trainer(config).train()


def is_at(output: Path, moment: str) -> bool:
    """Whether the run has a checkpoint and is at `moment`."""
    saved = [path for path in (output / "checkpoints").glob("*step-*") if path.name.startswith("step-")]
    saving = list((output / "checkpoints").glob(".step-*.partial"))
    return bool(saved) and bool(saving) == (moment == "while saving")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, corpus: Path, base: Path) -> Path:
    """Output of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("uninterrupted") / "straight"
    run_in_fork(train, load_config(TrainConfig, None, config_overrides(output, corpus, base, **CHANGES)))
    return output


@pytest.mark.parametrize("moment", ["while training", "while saving"])
def test_a_killed_run_resumes_to_the_same_weights(moment: str, configure: Configure, straight: Path):
    killed = configure("killed", **CHANGES)
    output = Path(killed.output)
    process = FORK_SERVER.Process(target=train, args=(killed,))
    process.start()
    while process.is_alive():
        if is_at(output, moment):
            process.kill()
            break
        time.sleep(0.0005)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run finished before it could be killed"
    assert not (output / "adapter").exists()

    run_in_fork(train, killed)
    assert bit_equal(load_checkpoint_tensors(output, 12), load_checkpoint_tensors(straight, 12))
    assert bit_equal(load_adapter_tensors(output), load_adapter_tensors(straight))
    assert read_losses(output) == read_losses(straight)
    assert not list((output / "checkpoints").glob(".*"))

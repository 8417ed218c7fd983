"""Kills a run by SIGKILL and repeats the command."""

import signal
import time
from pathlib import Path

import pytest
import torch

from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors, read_losses


def train(config: TrainConfig) -> None:
    torch.set_num_threads(1)
    Trainer(config).train()


def is_at(output: Path, moment: str) -> bool:
    """Whether the run has a checkpoint and is at `moment`."""
    saved = [path for path in (output / "checkpoints").glob("*step-*") if path.name.startswith("step-")]
    saving = list((output / "checkpoints").glob(".step-*.partial"))
    return bool(saved) and bool(saving) == (moment == "while saving")


@pytest.mark.parametrize("moment", ["while training", "while saving"])
def test_a_killed_run_resumes_to_the_same_weights(moment: str, configure: Configure):
    changes = {"stage__steps": 12, "checkpoints__interval": 2, "optimizer__ema_decay": 0.9}
    killed, straight = configure("killed", **changes), configure("straight", **changes)
    output = Path(killed.output)

    start_fork_server()
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

    for config in (killed, straight):  # each a process of its own, as a command is
        again = FORK_SERVER.Process(target=train, args=(config,))
        again.start()
        again.join()
        assert again.exitcode == 0
    assert bit_equal(load_checkpoint_tensors(output, 12), load_checkpoint_tensors(Path(straight.output), 12))
    assert bit_equal(load_adapter_tensors(output), load_adapter_tensors(straight.output))
    assert read_losses(output) == read_losses(straight.output)
    assert not list((output / "checkpoints").glob(".*"))

"""Tests of the components' training loop: reproducible and resumable."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode
from fantasytalking.nano.trainers.component_trainer import TRAINING_STATE_FILE, train_component
from fantasytalking.nano.trainers.config import ComponentTrainingConfig
from tests.helpers.errors import raises_input_error

CPU = torch.device("cpu")


class Line:
    """Fits a line, with dropout so that torch's global generator matters."""

    name = "line"

    def __init__(self, fails_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 1))
        self._fails_at = fails_at

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        if step == self._fails_at:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(random.standard_normal((32, 3)).astype(np.float32))
        return (self.model(inputs)[:, 0] - inputs @ torch.tensor([1.0, -2.0, 0.5])).square().mean()


def settings(**changes: object) -> ComponentTrainingConfig:
    values: dict = {"steps": 60, "batch_size": 32, "learning_rate": 0.05, "warmup_steps": 5, "save_interval": 20}
    return ComponentTrainingConfig(**{**values, **changes})


def test_the_loss_falls_and_is_reported(tmp_path: Path) -> None:
    report = train_component(Line(), settings(), tmp_path, CPU, seed=0)
    assert report.last_loss < 0.5 * report.first_loss
    assert report.steps == 60 and report.seconds > 0


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, stopped, resumed = Line(), Line(fails_at=47), Line()
    expected = train_component(whole, settings(), tmp_path / "whole", CPU, seed=0)
    with pytest.raises(KeyboardInterrupt):
        train_component(stopped, settings(), tmp_path / "parts", CPU, seed=0)
    with torch.no_grad():
        for value in resumed.model.parameters():
            value.fill_(9)  # what it begins with must not matter
    report = train_component(resumed, settings(), tmp_path / "parts", CPU, seed=0)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (report.first_loss, report.last_loss) == (expected.first_loss, expected.last_loss)


def test_a_finished_run_trains_no_further_steps(tmp_path: Path) -> None:
    first = Line()
    train_component(first, settings(), tmp_path, CPU, seed=0)
    again = Line(fails_at=0)
    train_component(again, settings(), tmp_path, CPU, seed=0)
    assert torch.equal(first.model[1].weight, again.model[1].weight)


def test_another_seed_gives_another_result(tmp_path: Path) -> None:
    losses = [
        train_component(Line(), settings(steps=3), tmp_path / str(seed), CPU, seed=seed).last_loss for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_a_damaged_state_is_rejected(tmp_path: Path) -> None:
    (tmp_path / TRAINING_STATE_FILE).write_bytes(b"PK\x03\x04 not a state")
    with raises_input_error(ErrorCode.malformed_file, "work_dir", str(tmp_path / TRAINING_STATE_FILE)):
        train_component(Line(), settings(), tmp_path, CPU, seed=0)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    line = Line()
    with torch.no_grad():
        line.model[1].weight.fill_(float("nan"))
    with raises_input_error(ErrorCode.out_of_range, "fit.learning_rate", settings().learning_rate) as caught:
        train_component(line, settings(), tmp_path, CPU, seed=0)
    assert "loss of line is nan at step 0" in str(caught.value)
    assert not (tmp_path / TRAINING_STATE_FILE).exists()

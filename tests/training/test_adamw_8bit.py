"""AdamW with moments of one byte per weight."""

import pytest
import torch

from fantasytalking.training.config import OptimizerConfig, OptimizerType
from fantasytalking.training.memory_estimate import OPTIMIZER_BYTES
from fantasytalking.training.optimizers import build_optimizer, set_learning_rate
from fantasytalking.training.trainer import Trainer
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, read_losses

pytest.importorskip("torchao")


def test_steps_follow_adamw_with_a_quarter_of_the_memory() -> None:
    def train(kind: OptimizerType) -> tuple[list[float], int]:
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 64, bias=False)
        optimizer = build_optimizer(model, OptimizerConfig(type=kind, learning_rate=1.0, weight_decay=0.0))
        target = torch.randn(64, 64)
        losses = []
        for _ in range(40):
            set_learning_rate(optimizer, 3e-2)
            loss = (model.weight - target).square().sum()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        moments = [optimizer.state[model.weight][name] for name in ("exp_avg", "exp_avg_sq")]
        return losses, sum(getattr(moment, "codes", moment).nbytes for moment in moments)

    (exact, whole), (found, small) = train(OptimizerType.adamw), train(OptimizerType.adamw_8bit)
    assert small == whole // 4 == 64 * 64 * OPTIMIZER_BYTES[OptimizerType.adamw_8bit]
    assert found != exact and exact[-1] < 0.2 * exact[0]
    assert found == pytest.approx(exact, abs=0.02 * exact[0])


def test_a_resumed_run_equals_a_straight_one(configure: Configure) -> None:
    settings = {"optimizer__type": OptimizerType.adamw_8bit}
    straight = configure("straight", stage__steps=4, **settings)
    Trainer(straight).train()
    Trainer(configure("resumed", stage__steps=2, **settings)).train()
    resumed = configure("resumed", stage__steps=4, **settings)
    Trainer(resumed).train()
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))
    exact = configure("exact", stage__steps=4)
    Trainer(exact).train()
    assert read_losses(straight.output) == read_losses(resumed.output)
    assert read_losses(straight.output) == pytest.approx(read_losses(exact.output), rel=0.01)

"""Learning rate schedule, weight decay and moving average."""

import itertools

import pytest
import torch
from torch import nn

from fantasytalking.training.config import LRSchedule, OptimizerConfig
from fantasytalking.training.ema import EMAModel
from fantasytalking.training.optimizers import build_optimizer, learning_rate_at


def rates(schedule: LRSchedule, final_share: float = 0.0) -> list[float]:
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, lr_schedule=schedule, min_lr_ratio=final_share)
    return [learning_rate_at(step, 13, config) for step in range(13)]


def test_learning_rate_warms_up_and_follows_its_schedule():
    assert rates(LRSchedule.constant) == [0.5, 1.0, 1.5] + [2.0] * 10
    linear = rates(LRSchedule.linear)
    assert linear[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert linear[8] == pytest.approx(1.0)
    assert linear[12] == 0.0
    cosine = rates(LRSchedule.cosine, final_share=0.1)
    assert cosine[8] == pytest.approx(2.0 * 0.55)
    assert cosine[12] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in itertools.pairwise(cosine[3:]))


def test_matrices_decay_and_vectors_do_not():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    model[2].requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.5, learning_rate=0.1))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    weight, bias, scale, shift, frozen_weight, frozen_bias = model.parameters()
    torch.testing.assert_close(weight, before[0] * 0.95)
    for parameter, old in ((bias, 1), (scale, 2), (shift, 3), (frozen_weight, 4), (frozen_bias, 5)):
        assert torch.equal(parameter, before[old])


def test_the_average_follows_its_formula_and_the_weights_are_restored():
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = EMAModel(model, 0.15)
    values, expected = (1.0, 3.0, -2.0), 0.0
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(step)
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert list(average.state_dict()) == ["weight"]
    with average.average_parameters():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == -2.0

"""Muon: its update, and its restored state."""

import copy

import pytest
import torch
from torch import nn

from fantasytalking.training.muon import ADAMW_UPDATE_RMS, Muon, orthogonalize


def test_orthogonalize_keeps_singular_vectors_and_equalizes_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((24, 40), (40, 24)):
        matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonalize(matrix)
        values = torch.linalg.svdvals(found)
        assert found.shape == shape and values.max() < 1.3 and values.median() > 0.6
        assert (found * (left @ right)).sum() / found.norm() / (left @ right).norm() > 0.95


def test_matrices_are_updated_by_muon_and_vectors_by_adam() -> None:
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.zeros(8, 16, 3)), nn.Parameter(torch.zeros(8))
    weight.grad, bias.grad = torch.randn_like(weight), torch.randn_like(bias)
    signs = bias.grad.sign()
    Muon([weight, bias], lr=0.1).step()
    torch.testing.assert_close(bias.data, -0.1 * signs, rtol=1e-4, atol=1e-6)
    assert weight.data.square().mean().sqrt().item() == pytest.approx(0.1 * ADAMW_UPDATE_RMS, rel=0.2)
    assert (weight.data * weight.grad).sum() < 0


def test_a_restored_state_continues_identically() -> None:
    def run(steps: range, weight: nn.Parameter, bias: nn.Parameter, optimizer: Muon) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(weight.shape, generator=generator)
            bias.grad = torch.randn(bias.shape, generator=generator)
            optimizer.step()

    whole = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4))]
    optimizer = Muon(whole, lr=0.1, weight_decay=0.1)
    run(range(3), *whole, optimizer)
    rest = [nn.Parameter(value.detach().clone()) for value in whole]
    other = Muon(rest, lr=0.1, weight_decay=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(range(3, 6), *whole, optimizer)
    run(range(3, 6), *rest, other)
    for one, same in zip(whole, rest, strict=True):
        assert torch.equal(one, same)

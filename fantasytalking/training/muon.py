"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon takes matrices alone; here convolutions are read as matrices (outputs by inputs), and everything that
is no matrix is stepped by AdamW within the same optimiser, so that one state holds a training.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
ADAMW_UPDATE_RMS = 0.2
"""Root mean square of an update: AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices, AdamW for the rest. Parameters without gradient stay."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = _muon_update if is_matrix(parameter) else _adamw_update
                parameter.add_(update(parameter.grad, self.state[parameter], group), alpha=-group["lr"])


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon steps it: weights of linear layers and of convolutions, neither vectors nor tables of one row."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1


def orthogonalize(matrix: Tensor) -> Tensor:
    """Nearly U Vᵀ of `matrix` = U S Vᵀ (m, n), by Newton and Schulz's iteration, in bfloat16 as its author does."""
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = (found / (found.norm() + 1e-7)).bfloat16()
    first, second, third = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = first * found + (second * gram + third * gram @ gram) @ found
    return (found.T if tall else found).to(matrix.dtype)


def _muon_update(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    state["momentum"].lerp_(gradient, 1 - group["momentum"])
    matrix = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
    return orthogonalize(matrix).view(gradient.shape) * (ADAMW_UPDATE_RMS * max(matrix.shape) ** 0.5)


def _adamw_update(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state["steps"] = torch.zeros(())
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["steps"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    mean = state["mean"] / (1 - first ** state["steps"])
    return mean / ((state["square"] / (1 - second ** state["steps"])).sqrt() + group["eps"])

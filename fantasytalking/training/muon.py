"""Muon: momentum with orthogonalized matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon accepts matrices only. Here convolutions are flattened to matrices (outputs by inputs), and all other
parameters are updated by AdamW in the same optimizer, so that a run has one optimizer state.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
ADAMW_UPDATE_RMS = 0.2
"""Root mean square of an update, as of AdamW (Liu et al. 2025, arXiv 2502.16982): one learning rate suits both."""


class Muon(torch.optim.Optimizer):
    """Updates matrices by Muon and the rest by AdamW. Parameters without gradient do not change."""

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
        """Performs one update."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = _muon_update if is_matrix(parameter) else _adamw_update
                parameter.add_(update(parameter.grad, self.state[parameter], group), alpha=-group["lr"])


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon updates a parameter: weights of linear layers and convolutions, no vectors or one-row tables."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1


def orthogonalize(matrix: Tensor) -> Tensor:
    """Returns approximately U Vᵀ of `matrix` = U S Vᵀ (m, n), by Newton-Schulz iteration.

    In bfloat16 as published; on a processor, where it may be emulated, in float32.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    if matrix.device.type != "cpu":
        wide = wide.bfloat16()
    first, second, third = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        wide = first * wide + (second * gram + third * gram @ gram) @ wide
    return (wide.T if tall else wide).to(matrix.dtype)


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

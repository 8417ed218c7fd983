"""Exponential moving average of the trained weights, in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class EMAModel:
    """average <- d average + (1 - d) weight with d = min(decay, (1 + step) / (10 + step)).

    The smaller d of the first steps keeps the average from staying near the initial weights.

    Args:
        model: unwrapped, with whole parameters (one process, DDP or ZeRO-2) or those of FSDP, of which every process
            averages its own part.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._shadow = {name: value.detach().float().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average after step number `step` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._parameters.items():
            self._shadow[name].lerp_(value.detach().float(), 1 - decay)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Replaces the model's weights by the average within the context and restores them afterwards."""
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._copy_to_model(self._shadow)
        try:
            yield
        finally:
            self._copy_to_model(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the average by parameter name; under FSDP as DTensors."""
        return dict(self._shadow)

    def full_state_dict(self) -> dict[str, Tensor]:
        """Returns the whole average by parameter name. Under FSDP every process must call it."""
        return {
            name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
            for name, value in self._shadow.items()
        }

    @property
    def is_sharded(self) -> bool:
        """Whether every process holds a part only."""
        return any(isinstance(value, DTensor) for value in self._shadow.values())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores the average. `state` must have exactly the names that train."""
        assert state.keys() == self._shadow.keys(), "moving average of other parameters"
        for name, value in state.items():
            self._shadow[name].copy_(value)

    @torch.no_grad()
    def _copy_to_model(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

"""Modules of registered conditions: the registered encoder, and projections that add nothing until they are trained."""

import torch
from torch import Tensor, nn

from fantasytalking.condition_registry import WIDTH, RegisteredCondition, Sizes
from fantasytalking.condition_specs import Injection


class RegisteredModule(nn.Module):
    """The encoder of a registered condition; with injection `timestep`, followed by a linear layer of zeros.

    With injection `cross_attention` the zeros are the value projections of the blocks.

    Args:
        condition: as registered.
        sizes: all of the condition's sizes.
        dim: width of the transformer.
    """

    def __init__(self, condition: RegisteredCondition, sizes: Sizes, dim: int) -> None:
        super().__init__()
        self.condition, self.sizes = condition, sizes
        self.encoder = condition.module(sizes)
        is_vector = condition.injection is Injection.timestep
        self.output = nn.Linear(sizes[WIDTH], dim) if is_vector else None
        self._reset_output()

    def forward(self, value: Tensor) -> Tensor:
        """(B, *axes) -> (B, dim) for the timestep embedding, or tokens (B, N, width)."""
        encoded: Tensor = self.encoder(value)
        expected = "(B, width)" if self.output is not None else "(B, tokens, width)"
        fits = encoded.ndim == (2 if self.output is not None else 3) and encoded.shape[-1] == self.sizes[WIDTH]
        assert fits, f"the module of '{self.condition.name}' returned {tuple(encoded.shape)}, not {expected}"
        return encoded if self.output is None else self.output(encoded)

    def materialize(self, dtype: torch.dtype) -> None:
        """Replaces weights on the meta device by new ones on the CPU."""
        self.encoder = self.condition.module(self.sizes).to(dtype)
        if self.output is not None:
            self.output.to_empty(device="cpu").to(dtype)
        self._reset_output()

    def _reset_output(self) -> None:
        if self.output is not None:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)


def registered_tensor_shapes(
    condition: RegisteredCondition, sizes: Sizes, dim: int, num_blocks: int
) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of a transformer's tensors of a registered condition, without building it.

    Args:
        sizes: all of the condition's sizes.
        dim, num_blocks: width and depth of the transformer.
    """
    with torch.device("meta"):
        state = RegisteredModule(condition, sizes, dim).state_dict()
    shapes = {f"{condition.spec.module}.{name}": tuple(value.shape) for name, value in state.items()}
    if not condition.spec.is_decoupled:
        return shapes
    pairs = [
        f"blocks.{block}.attn2.{condition.name}_{kind}_proj.weight" for block in range(num_blocks) for kind in "kv"
    ]
    return {**shapes, **dict.fromkeys(pairs, (dim, sizes[WIDTH]))}

"""A gesture of two numbers, in [-1, 1], that is added to the timestep embedding."""

from collections.abc import Mapping

from torch import Tensor, nn

from fantasytalking.condition_registry import register_condition
from fantasytalking.condition_specs import Injection


class GestureEncoder(nn.Module):
    """An MLP of one hidden layer.

    Args:
        sizes: `dim`, numbers of a gesture, and `width` of the output.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        width = sizes["width"]
        self.layers = nn.Sequential(nn.Linear(sizes["dim"], width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, gesture: Tensor) -> Tensor:
        """(B, dim) -> (B, width)."""
        return self.layers(gesture)


register_condition(
    "gesture",
    injection=Injection.timestep,
    axes=("dim",),
    sizes={"dim": 2, "width": 32},
    module=GestureEncoder,
)

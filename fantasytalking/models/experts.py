"""Two transformers of one model, each for a range of noise levels, as in Wan2.2-I2V-A14B."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


class Expert(Enum):
    """A transformer of a base with two, by the noise levels that it predicts."""

    high = "high"
    """Noise levels from the boundary on."""
    low = "low"
    """Noise levels below it."""

    @property
    def component(self) -> str:
        """Name of the pipeline's component and of its folder, as in diffusers."""
        return "transformer" if self is Expert.high else "transformer_2"

    def sigma_range(self, boundary_ratio: float) -> tuple[float, float]:
        """Returns the noise levels that it predicts, within [0, 1]."""
        return (boundary_ratio, 1.0) if self is Expert.high else (0.0, boundary_ratio)


@dataclass(frozen=True)
class Experts:
    """The transformers of a model: one, or one per range of noise levels."""

    high: FantasyTalkingTransformer3DModel
    """The high-noise expert, or the only transformer."""
    low: FantasyTalkingTransformer3DModel | None = None
    """The low-noise expert; None: `high` predicts at all noise levels."""
    boundary_ratio: float | None = None
    """Noise level, in (0, 1), from which on `high` predicts; None without `low`."""

    def __post_init__(self) -> None:
        """Checks that there is a boundary between two experts, and that both take the same inputs.

        Raises:
            InputError: one of the two is missing, or the experts differ in what they read.
        """
        if (self.low is None) != (self.boundary_ratio is None):
            raise InputError(
                f"transformer_2 is {'missing' if self.low is None else 'given'} and boundary_ratio is "
                f"{self.boundary_ratio}; a model of two experts needs both",
                code=ErrorCode.conflict,
                field="boundary_ratio",
                value=self.boundary_ratio,
            )
        if self.low is not None:
            _check_same_inputs(self.high, self.low)

    def __iter__(self) -> Iterator[FantasyTalkingTransformer3DModel]:
        """Yields the transformers."""
        return (transformer for _, transformer in self.items())

    def items(self) -> Iterator[tuple[Expert, FantasyTalkingTransformer3DModel]]:
        """Yields each expert with its transformer."""
        yield Expert.high, self.high
        if self.low is not None:
            yield Expert.low, self.low

    def at(self, timestep: Tensor | float) -> Expert:
        """Returns the expert of a timestep in [0, 1000], as diffusers' pipelines choose it."""
        if self.boundary_ratio is None:
            return Expert.high
        return Expert.high if float(timestep) >= self.boundary_ratio * NUM_TRAIN_TIMESTEPS else Expert.low

    def transformer(self, expert: Expert) -> FantasyTalkingTransformer3DModel:
        """Returns the transformer of an expert that the model has."""
        transformer = self.high if expert is Expert.high else self.low
        assert transformer is not None, "a model without a low-noise expert predicts with the other"
        return transformer


def check_boundary_ratio(value: object, source: str) -> float:
    """Returns the boundary of a base with two experts.

    Raises:
        InputError: it is not a number between 0 and 1.
    """
    if type(value) not in (int, float) or not 0 < value < 1:  # type: ignore[operator]
        raise InputError(
            f"{source}: boundary_ratio is {str(value)[:40]}; a base with two experts needs one above 0 and below 1 "
            "(Wan2.2-I2V-A14B: 0.9)",
            code=ErrorCode.malformed_file,
            field="boundary_ratio",
            value=value,
        )
    return float(value)  # type: ignore[arg-type]


def _check_same_inputs(high: FantasyTalkingTransformer3DModel, low: FantasyTalkingTransformer3DModel) -> None:
    """Weights may differ, and so may their storage; what the modules read may not."""
    for name in (key for key in high.config if not key.startswith("_") and key != "quantization_config"):
        found = low.config.get(name)
        if found != high.config[name]:
            raise InputError(
                f"{name} of transformer_2 is {str(found)[:40]}, of transformer {str(high.config[name])[:40]}; two "
                "experts of one model are needed, with adapters of the same modules",
                code=ErrorCode.conflict,
                field="transformer_2",
                value=name,
            )

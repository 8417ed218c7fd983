"""Strength of a transformer's LoRA adapters step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError


@dataclass(frozen=True)
class StepStrength:
    """Factor of a LoRA's scale at every step: one number per step, or 1 in a part of the steps and 0 elsewhere."""

    factors: Sequence[float] = ()
    """One per step; empty: by `start` and `stop`."""
    start: float = 0.0
    """Fraction of the steps from which on the factor is 1, in [0, 1]."""
    stop: float = 1.0
    """Fraction of the steps from which on it is 0 again, in [0, 1]."""

    @property
    def is_constant(self) -> bool:
        """Whether the factor is 1 at every step."""
        return not self.factors and (self.start, self.stop) == (0.0, 1.0)

    def at(self, step: int, num_steps: int) -> float:
        """Returns the factor at `step`, in 0 .. `num_steps` - 1.

        Raises:
            InputError: there are factors for another number of steps.
        """
        if not self.factors:
            return float(round(self.start * num_steps) <= step < round(self.stop * num_steps))
        if len(self.factors) != num_steps:
            raise InputError(
                f"the strength of a LoRA has {len(self.factors)} values, but there are {num_steps} steps; give one per "
                "step",
                code=ErrorCode.conflict,
                field="strength",
                value=len(self.factors),
            )
        return self.factors[step]


class LoraSchedule:
    """Sets the weights of a model's adapters for each step.

    Args:
        model: with PEFT adapters.
        constant: weight of the adapters that do not change, by name.
        changing: scale and strength of the others.
    """

    def __init__(
        self, model: Any, constant: Mapping[str, float], changing: Mapping[str, tuple[float, StepStrength]]
    ) -> None:
        self._model, self._constant, self._changing = model, constant, changing
        self._present: dict[str, float] | None = None

    def begin_step(self, step: int, num_steps: int) -> bool:
        """Sets the weights of a step, and returns whether they differ from those of the step before."""
        factors = {name: scale * strength.at(step, num_steps) for name, (scale, strength) in self._changing.items()}
        weights = {**self._constant, **factors}
        if weights == self._present:
            return False
        self._model.set_adapters(list(weights), list(weights.values()))
        self._present = weights
        return True

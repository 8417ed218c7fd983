"""Sizes of the expression condition, as a transformer's configuration and an adapter's have them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fantasytalking.common.errors import InputError

PARTS = ("head", "eye", "emotion", "mouth")
"""Of the features, in their order; released widths 6, 6, 30 and 512."""
AUGMENTATIONS = {"none": (0, 0, 0, 0), "emotion_and_mouth": (0, 0, 4, 16), "all": (4, 4, 4, 16)}
"""The paper's ablation of expression-augmented learning: learned tokens of each of `PARTS`. It states no counts for
head and eye; theirs are emotion's."""
PADDINGS = ("masked", "attended")
"""Whether zeros that fill a window outside the clip are masked (ours) or take part in the softmax (as released)."""
PREFIX = "expression_"
"""Of the sizes among a transformer's arguments."""
MOST = {
    "dims": 8192,
    "learned": 1024,
    "token_dim": 16384,
    "width": 16384,
    "depth": 64,
    "heads": 256,
    "head_dim": 1024,
    "positions": 1,
}
"""Largest sizes that a file may ask for."""

Four = tuple[int, int, int, int]
"""One number for each of `PARTS`."""


@dataclass(frozen=True)
class ExpressionSizes:
    """What an expression condition is built with."""

    dims: Four
    """Widths of the features' parts."""
    learned: Four = AUGMENTATIONS["emotion_and_mouth"]
    """Learned tokens of each part."""
    token_dim: int = 2048
    width: int = 1280
    """Of the resamplers, as are depth, heads and head_dim."""
    depth: int = 4
    heads: int = 20
    head_dim: int = 64
    plain_width: int = 0
    """Inner width of the plain projections; 0 = one linear layer each, as released."""
    positions: int = 0
    """1: every place in a window has a learned vector, which tells a latent frame's pictures apart; 0 = as released."""

    @property
    def window_length(self) -> int:
        """Tokens in the window of a latent frame: those of its four pictures and one more, as released."""
        return 4 * (len(PARTS) + sum(self.learned)) + 1

    @classmethod
    def read(cls, values: Any, source: str) -> "ExpressionSizes":
        """From the JSON object of an adapter's configuration.

        Raises:
            InputError: a key misses, is unknown, or holds a value out of its limits.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError(f"{source}: expression is {values!r}; {', '.join(sorted(names))} are needed")
        _check(values, "expression.", source)
        four = {name: tuple(values[name]) for name in ("dims", "learned")}
        return cls(**{**values, **four})

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ExpressionSizes | None":
        """From a transformer's configuration; None where it has no expression condition."""
        if config.get("expression_dims") is None:
            return None
        values = {item.name: config[PREFIX + item.name] for item in fields(cls) if PREFIX + item.name in config}
        return cls(**{**values, "dims": tuple(values["dims"]), "learned": tuple(values["learned"])})

    def arguments(self) -> dict[str, Any]:
        """The transformer's arguments of these sizes."""
        return {PREFIX + name: value for name, value in vars(self).items()}

    def as_json(self) -> dict[str, Any]:
        """As it stands in an adapter's configuration."""
        return {**asdict(self), "dims": list(self.dims), "learned": list(self.learned)}


def check_expression_config(config: Mapping[str, Any], source: str) -> None:
    """Holds the transformer's `expression_*` arguments in their limits.

    Raises:
        InputError: naming `source`, the value and the limit.
    """
    if config.get("expression_dims") is not None:
        names = [item.name for item in fields(ExpressionSizes) if PREFIX + item.name in config]
        _check({name: config[PREFIX + name] for name in names}, PREFIX, source)
    padding = config.get("expression_padding", PADDINGS[0])
    if padding not in PADDINGS:
        raise InputError(f"{source}: expression_padding is {padding!r}; {' or '.join(PADDINGS)} is needed")


def _check(values: Mapping[str, Any], prefix: str, source: str) -> None:
    for name, value in values.items():
        several = name in ("dims", "learned")
        if several and (not isinstance(value, list | tuple) or len(value) != len(PARTS)):
            raise InputError(
                f"{source}: {prefix}{name} is {value!r}; a number for each of {', '.join(PARTS)} is needed"
            )
        low, high = int(name not in ("learned", "plain_width", "positions")), MOST.get(name, 2**20)
        if any(type(size) is not int or not low <= size <= high for size in (value if several else [value])):
            raise InputError(f"{source}: {prefix}{name} is {value!r}; {low} to {high} is needed")

"""Sizes of the expression condition, as a transformer's configuration and an adapter's have them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fantasytalking.common.errors import InputError

EXPRESSION_FEATURE_PARTS = ("head", "eye", "emotion", "mouth")
"""Of the features, in their order; released widths 6, 6, 30 and 512."""
LEARNED_TOKEN_COUNTS = {"none": (0, 0, 0, 0), "emotion_and_mouth": (0, 0, 4, 16), "all": (4, 4, 4, 16)}
"""The paper's ablation of expression-augmented learning: learned tokens of each of `PARTS`. It states no counts for
head and eye; theirs are emotion's."""
PADDING_MODES = ("masked", "attended")
"""Whether zeros that fill a window outside the clip are masked (ours) or take part in the softmax (as released)."""
TRANSFORMER_ARG_PREFIX = "expression_"
"""Of the sizes among a transformer's arguments."""
UPPER_BOUNDS = {
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

PerPart = tuple[int, int, int, int]
"""One number for each of `PARTS`."""


@dataclass(frozen=True)
class ExpressionModuleConfig:
    """What an expression condition is built with."""

    dims: PerPart
    """Widths of the features' parts."""
    learned: PerPart = LEARNED_TOKEN_COUNTS["emotion_and_mouth"]
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
        return 4 * (len(EXPRESSION_FEATURE_PARTS) + sum(self.learned)) + 1

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "ExpressionModuleConfig":
        """From the JSON object of an adapter's configuration.

        Raises:
            InputError: a key misses, is unknown, or holds a value out of its limits.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError(f"{source}: expression is {values!r}; {', '.join(sorted(names))} are needed")
        _check_values(values, "expression.", source)
        four = {name: tuple(values[name]) for name in ("dims", "learned")}
        return cls(**{**values, **four})

    @classmethod
    def from_transformer_config(cls, config: Mapping[str, Any]) -> "ExpressionModuleConfig | None":
        """From a transformer's configuration; None where it has no expression condition."""
        if config.get("expression_dims") is None:
            return None
        values = {
            item.name: config[TRANSFORMER_ARG_PREFIX + item.name]
            for item in fields(cls)
            if TRANSFORMER_ARG_PREFIX + item.name in config
        }
        return cls(**{**values, "dims": tuple(values["dims"]), "learned": tuple(values["learned"])})

    def to_transformer_kwargs(self) -> dict[str, Any]:
        """The transformer's arguments of these sizes."""
        return {TRANSFORMER_ARG_PREFIX + name: value for name, value in vars(self).items()}

    def to_dict(self) -> dict[str, Any]:
        """As it stands in an adapter's configuration."""
        return {**asdict(self), "dims": list(self.dims), "learned": list(self.learned)}


def check_expression_config(config: Mapping[str, Any], source: str) -> None:
    """Holds the transformer's `expression_*` arguments in their limits.

    Raises:
        InputError: naming `source`, the value and the limit.
    """
    if config.get("expression_dims") is not None:
        names = [item.name for item in fields(ExpressionModuleConfig) if TRANSFORMER_ARG_PREFIX + item.name in config]
        _check_values({name: config[TRANSFORMER_ARG_PREFIX + name] for name in names}, TRANSFORMER_ARG_PREFIX, source)
    padding = config.get("expression_padding", PADDING_MODES[0])
    if padding not in PADDING_MODES:
        raise InputError(f"{source}: expression_padding is {padding!r}; {' or '.join(PADDING_MODES)} is needed")


def _check_values(values: Mapping[str, Any], prefix: str, source: str) -> None:
    for name, value in values.items():
        several = name in ("dims", "learned")
        if several and (not isinstance(value, list | tuple) or len(value) != len(EXPRESSION_FEATURE_PARTS)):
            raise InputError(
                f"{source}: {prefix}{name} is {value!r}; a number for each of {', '.join(EXPRESSION_FEATURE_PARTS)} is "
                "needed"
            )
        low, high = int(name not in ("learned", "plain_width", "positions")), UPPER_BOUNDS.get(name, 2**20)
        if any(type(size) is not int or not low <= size <= high for size in (value if several else [value])):
            raise InputError(f"{source}: {prefix}{name} is {value!r}; {low} to {high} is needed")

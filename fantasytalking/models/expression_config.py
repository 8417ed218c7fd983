"""Sizes of the expression condition in the configurations of a transformer and of an adapter."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import WAN21_GEOMETRY

EXPRESSION_FEATURE_PARTS = ("head", "eye", "emotion", "mouth")
"""Parts of the expression features, in order; released widths 6, 6, 30 and 512."""
LEARNED_TOKEN_COUNTS = {"none": (0, 0, 0, 0), "emotion_and_mouth": (0, 0, 4, 16), "all": (4, 4, 4, 16)}
"""Learned tokens of each part in the ablation of expression-augmented learning (FantasyPortrait). The paper states no
counts for head and eye; here they equal emotion's."""
PADDING_MODES = ("masked", "attended")
"""Whether zeros that pad a window outside the clip are masked (ours) or attended to (as released)."""
TRANSFORMER_ARG_PREFIX = "expression_"
"""Prefix of these sizes among the transformer's arguments."""
UPPER_BOUNDS = {
    "dims": 8192,
    "learned": 1024,
    "token_dim": 16384,
    "width": 16384,
    "depth": 64,
    "heads": 256,
    "head_dim": 1024,
    "positions": 1,
    "temporal_stride": 64,
}
"""Largest sizes accepted from a file."""

PerPart = tuple[int, int, int, int]
"""One number for each of `EXPRESSION_FEATURE_PARTS`."""


@dataclass(frozen=True)
class ExpressionModuleConfig:
    """Sizes of an expression condition."""

    dims: PerPart
    """Widths of the feature parts."""
    learned: PerPart = LEARNED_TOKEN_COUNTS["emotion_and_mouth"]
    """Learned tokens of each part."""
    token_dim: int = 2048
    """Width of an expression token."""
    width: int = 1280
    """Inner width of the resamplers."""
    depth: int = 4
    """Layers of the resamplers."""
    heads: int = 20
    """Attention heads of the resamplers."""
    head_dim: int = 64
    """Width of an attention head of the resamplers."""
    plain_width: int = 0
    """Inner width of the plain projections; 0 = one linear layer each, as released."""
    positions: int = 0
    """1 = learned positions of the tokens in a window, which distinguish a latent frame's frames; 0 = none."""
    temporal_stride: int = WAN21_GEOMETRY.temporal_stride
    """Frames per latent frame of the base's VAE."""

    @property
    def window_length(self) -> int:
        """Tokens in a latent frame's window: those of its frames and one more, as released."""
        return self.temporal_stride * (len(EXPRESSION_FEATURE_PARTS) + sum(self.learned)) + 1

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "ExpressionModuleConfig":
        """Parses the JSON object of an adapter's configuration.

        Raises:
            InputError: a key is missing or unknown, or a value is out of range.
        """
        names = {item.name for item in fields(cls)}
        if isinstance(values, dict):  # adapters of earlier releases have Wan 2.1's stride
            values = {"temporal_stride": cls.temporal_stride, **values}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError(
                f"{source}: expression is {values!r}; the keys {', '.join(sorted(names))} are required",
                code=ErrorCode.malformed_file,
                field="expression",
                value=values,
            )
        _check_values(values, "expression.", source)
        per_part = {name: tuple(values[name]) for name in ("dims", "learned")}
        return cls(**{**values, **per_part})

    @classmethod
    def from_transformer_config(cls, config: Mapping[str, Any]) -> "ExpressionModuleConfig | None":
        """Reads a transformer's configuration; None if it has no expression condition."""
        if config.get("expression_dims") is None:
            return None
        values = {
            item.name: config[TRANSFORMER_ARG_PREFIX + item.name]
            for item in fields(cls)
            if TRANSFORMER_ARG_PREFIX + item.name in config
        }
        return cls(**{**values, "dims": tuple(values["dims"]), "learned": tuple(values["learned"])})

    def to_transformer_kwargs(self) -> dict[str, Any]:
        """Returns these sizes as arguments of the transformer."""
        return {TRANSFORMER_ARG_PREFIX + name: value for name, value in vars(self).items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object for an adapter's configuration."""
        return {**asdict(self), "dims": list(self.dims), "learned": list(self.learned)}


def check_expression_config(config: Mapping[str, Any], source: str) -> None:
    """Validates the transformer's `expression_*` arguments.

    Raises:
        InputError: names `source`, the argument, its value and the limit.
    """
    if config.get("expression_dims") is not None:
        names = [item.name for item in fields(ExpressionModuleConfig) if TRANSFORMER_ARG_PREFIX + item.name in config]
        _check_values({name: config[TRANSFORMER_ARG_PREFIX + name] for name in names}, TRANSFORMER_ARG_PREFIX, source)
    padding = config.get("expression_padding", PADDING_MODES[0])
    if padding not in PADDING_MODES:
        raise InputError(
            f"{source}: expression_padding is {padding!r}; expected {' or '.join(PADDING_MODES)}",
            code=ErrorCode.invalid_choice,
            field="expression_padding",
            value=padding,
        )


def _check_values(values: Mapping[str, Any], prefix: str, source: str) -> None:
    for name, value in values.items():
        per_part = name in ("dims", "learned")
        if per_part and (not isinstance(value, list | tuple) or len(value) != len(EXPRESSION_FEATURE_PARTS)):
            raise InputError(
                f"{source}: {prefix}{name} is {value!r}; one number for each of {', '.join(EXPRESSION_FEATURE_PARTS)} "
                "is required",
                code=ErrorCode.invalid_type,
                field=f"{prefix}{name}",
                value=value,
            )
        low, high = int(name not in ("learned", "plain_width", "positions")), UPPER_BOUNDS.get(name, 2**20)
        if any(type(size) is not int or not low <= size <= high for size in (value if per_part else [value])):
            raise InputError(
                f"{source}: {prefix}{name} is {value!r}; it must be {low} to {high}",
                code=ErrorCode.out_of_range,
                field=f"{prefix}{name}",
                value=value,
            )

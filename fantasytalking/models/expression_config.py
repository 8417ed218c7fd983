"""The expression section in the configurations of a transformer, a model preset and an adapter."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_CONFIG_NUMBER
from fantasytalking.common.text import shortened
from fantasytalking.latent_geometry import WAN21_GEOMETRY

EXPRESSION_FEATURE_PARTS = ("head", "eye", "emotion", "mouth")
"""Parts of the expression features, in order; released widths 6, 6, 30 and 512."""
LEARNED_TOKEN_COUNTS = {"none": (0, 0, 0, 0), "emotion_and_mouth": (0, 0, 4, 16), "all": (4, 4, 4, 16)}
"""Learned tokens of each part in the ablation of expression-augmented learning (FantasyPortrait). The paper states no
counts for head and eye; here they equal emotion's."""
PADDING_MODES = ("masked", "attended")
"""Whether zeros that pad a window outside the clip are masked (ours) or attended to (as released)."""
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


OLD_KEY_PREFIX = "expression_"
"""Prefix of the keys that stood beside each other in configurations of earlier releases."""


@dataclass(frozen=True)
class ExpressionModuleConfig:
    """Sizes of an expression condition, and how its attention weighs and pads."""

    dims: PerPart
    """Widths of the feature parts; (6, 6, 30, 512) for the released encoder."""
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
    scale: float = 1.0
    """Weight of the expression attention."""
    padding: str = PADDING_MODES[0]
    """`masked`, or `attended` for weights trained by the released code."""

    @property
    def window_length(self) -> int:
        """Tokens in a latent frame's window: those of its frames and one more, as released."""
        return self.temporal_stride * (len(EXPRESSION_FEATURE_PARTS) + sum(self.learned)) + 1

    def has_same_sizes(self, other: "ExpressionModuleConfig") -> bool:
        """Whether the weights of one fit the other; scale and padding may differ."""
        return replace(self, scale=other.scale, padding=other.padding) == other

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "ExpressionModuleConfig":
        """Parses the section `expression` of a configuration; keys besides `dims` have defaults.

        Raises:
            InputError: `dims` is missing, a key is unknown, or a value is out of range.
        """
        names = [item.name for item in fields(cls)]
        if not isinstance(values, Mapping) or "dims" not in values or not values.keys() <= set(names):
            raise InputError(
                f"{source}: expression is {values!r}; dims is required, and some of {', '.join(names[1:])} may be "
                "given",
                code=ErrorCode.malformed_file,
                field="expression",
                value=values,
            )
        _check_values(values, source)
        per_part = {name: tuple(values[name]) for name in ("dims", "learned") if name in values}
        return cls(**{**values, **per_part})

    def to_dict(self) -> dict[str, Any]:
        """Returns the section as a JSON object."""
        return {**asdict(self), "dims": list(self.dims), "learned": list(self.learned)}


def upgrade_expression_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration in which the `expression_*` keys of earlier releases stand in its section `expression`.

    A transformer had all of them, of which `expression_dims` was null without an expression condition; an adapter had
    `expression_padding` beside its section.
    """
    names = [OLD_KEY_PREFIX + item.name for item in fields(ExpressionModuleConfig)]
    old = {name.removeprefix(OLD_KEY_PREFIX): config[name] for name in names if name in config}
    if not old:
        return dict(config)
    upgraded = {name: value for name, value in config.items() if name not in names}
    section = upgraded.get("expression")
    if isinstance(section, Mapping):
        return {**upgraded, "expression": {**old, **section}}
    return {**upgraded, "expression": section if old.get("dims") is None else old}


def _check_values(values: Mapping[str, Any], source: str) -> None:
    sizes = {name: value for name, value in values.items() if name not in ("scale", "padding")}
    for name, value in sizes.items():
        per_part = name in ("dims", "learned")
        if per_part and (not isinstance(value, list | tuple) or len(value) != len(EXPRESSION_FEATURE_PARTS)):
            requirement = f"one number for each of {', '.join(EXPRESSION_FEATURE_PARTS)} is required"
            raise _value_error(source, name, value, requirement, ErrorCode.invalid_type)
        low, high = int(name not in ("learned", "plain_width", "positions")), UPPER_BOUNDS.get(name, 2**20)
        if any(type(size) is not int or not low <= size <= high for size in (value if per_part else [value])):
            raise _value_error(source, name, value, f"it must be {low} to {high}", ErrorCode.out_of_range)
    scale, padding = values.get("scale", 1.0), values.get("padding", PADDING_MODES[0])
    if type(scale) not in (int, float) or not abs(scale) <= MAX_CONFIG_NUMBER:
        limit = f"it must be a number up to {MAX_CONFIG_NUMBER}"
        raise _value_error(source, "scale", scale, limit, ErrorCode.out_of_range)
    if padding not in PADDING_MODES:
        expected = f"it must be {' or '.join(PADDING_MODES)}"
        raise _value_error(source, "padding", padding, expected, ErrorCode.invalid_choice)


def _value_error(source: str, name: str, value: Any, requirement: str, code: ErrorCode) -> InputError:
    field = f"expression.{name}"
    return InputError(f"{source}: {field} is {shortened(value)}; {requirement}", code=code, field=field, value=value)

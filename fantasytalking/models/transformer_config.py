"""Validates the configuration of a transformer before a model is built from it."""

import inspect
from collections.abc import Mapping
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_CONFIG_NUMBER
from fantasytalking.common.text import shortened
from fantasytalking.condition_registry import resolve_conditions
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

MAX_TRANSFORMER_SIZES = {
    "num_layers": 1024,
    "num_attention_heads": 1024,
    "attention_head_dim": 1024,
    "rope_max_seq_len": 1 << 14,
    "patch_size": 64,
    "face_depth": 256,
    "face_heads": 1024,
}
"""Largest sizes of a transformer where `MAX_CONFIG_NUMBER` is too large: of loops, and of tables of positions."""

ZERO_SIZES = ("audio_positions",)
"""Sizes of a transformer that may be 0."""


def check_transformer_config(config: Mapping[str, Any], source: str) -> None:
    """Validates keys, types and sizes of a transformer's configuration before a model is built from it.

    Raises:
        InputError: names the key, its value and what is allowed.
    """
    parameters = inspect.signature(FantasyTalkingTransformer3DModel.__init__).parameters
    for key, value in config.items():
        if key not in parameters:
            raise InputError(
                f"{source}: the transformer's configuration has the unknown key '{key}'; remove it",
                code=ErrorCode.unknown_key,
                field=key,
            )
        default = parameters[key].default
        kinds: tuple[type, ...] = (type(default),)
        if key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
            kinds = (int, type(None))
        elif key == "patch_size":
            kinds = (tuple, list)
        elif key in ("distillation", "expression", "conditions"):
            kinds = (dict, type(None))
        elif isinstance(default, float):
            kinds = (float, int)
        low, high = int(key not in ZERO_SIZES), MAX_TRANSFORMER_SIZES.get(key, MAX_CONFIG_NUMBER)
        if type(value) not in kinds or not all(_is_size(size, low, high, float in kinds) for size in _numbers(value)):
            raise InputError(
                f"{source}: {key} of the transformer's configuration is {shortened(value)}; expected "
                f"{' or '.join(kind.__name__ for kind in kinds)}, sizes from {low} to {high}",
                code=ErrorCode.invalid_type,
                field=key,
                value=value,
            )
    if config.get("expression") is not None:
        ExpressionModuleConfig.from_dict(config["expression"], source)
    resolve_conditions(config.get("conditions"), source)


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return list(value)
    return [value] if type(value) in (int, float) else []


def _is_size(value: Any, low: int, high: int, may_be_fraction: bool) -> bool:
    if may_be_fraction:
        return type(value) in (int, float) and abs(value) <= high  # NaN is in no range
    return type(value) is int and low <= value <= high

"""The scale of a LoRA's pairs: of the file's alphas, of PEFT's configuration, or assumed with a note."""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_MODEL_CONFIG_BYTES
from fantasytalking.common.tensor_io import safetensors_metadata
from fantasytalking.common.text_files import read_json

PEFT_CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
DIFFUSERS_METADATA_KEY = "lora_adapter_metadata"
"""Entry of a safetensors file's metadata with PEFT's configuration, as diffusers writes it."""

_LAYER_NAME = re.compile(r"[\w.]+")

logger = logging.getLogger(__name__)


def read_peft_config(source: Any) -> dict[str, Any] | None:
    """Returns PEFT's configuration of a local LoRA: beside the file, in its folder or in its metadata; None without.

    Raises:
        InputError: it is not valid JSON.
    """
    if not isinstance(source, str | Path) or not Path(source).exists():
        return None
    source = Path(source)
    path = (source if source.is_dir() else source.parent) / PEFT_CONFIG_FILE
    if path.is_file():
        return read_json(path)
    return _metadata_config(source) if source.suffix == ".safetensors" else None


def note_assumed_scale(names: Iterable[str], peft_config: Mapping[str, Any] | None, source: str) -> None:
    """Logs that the scale of pairs in PEFT's names is assumed, where nothing states it."""
    names = list(names)
    if (
        peft_config is None
        and any(name.startswith(PEFT_PREFIX) for name in names)
        and not any(name.endswith(".alpha") for name in names)
    ):
        logger.warning(
            "note: '%s' states no scale; 1 is assumed, as of alpha = rank; if it was trained with another (rsLoRA, for "
            "instance), put its %s beside it, or set the LoRA's scale",
            source,
            PEFT_CONFIG_FILE,
        )


def pair_scale(layer: str, rank: int, alpha: float | None, peft_config: Mapping[str, Any] | None, source: str) -> float:
    """Returns the factor of B A: alpha / rank, of the file or of PEFT's configuration, with rsLoRA alpha / sqrt(rank).

    Args:
        layer: in diffusers' names.
        alpha: of the file; None: it has none.
        source: for messages.

    Raises:
        InputError: the configuration's alpha is not a finite number, or its alpha_pattern has regular expressions.
    """
    if alpha is not None:
        return alpha / rank
    if peft_config is None:
        return 1.0
    patterns = peft_config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_LAYER_NAME.fullmatch(str(name)) for name in patterns):
        raise InputError(
            f"'{source}': alpha_pattern is {str(patterns)[:80]}; names of layers with their alpha are read, no regular "
            "expressions",
            code=ErrorCode.unsupported,
            field="alpha_pattern",
            value=patterns,
        )
    own = (value for name, value in patterns.items() if layer == name or layer.endswith(f".{name}"))
    stated = next(own, peft_config.get("lora_alpha", rank))
    if type(stated) not in (int, float) or not math.isfinite(stated):
        raise InputError(
            f"'{source}': lora_alpha of '{layer}' is {str(stated)[:40]}; a number is required",
            code=ErrorCode.invalid_type,
            field="lora_alpha",
            value=stated,
        )
    return float(stated) / (math.sqrt(rank) if peft_config.get("use_rslora") else rank)


def _metadata_config(path: Path) -> dict[str, Any] | None:
    text = safetensors_metadata(path).get(DIFFUSERS_METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text) if len(text) <= MAX_MODEL_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(
            f"'{path}': its metadata {DIFFUSERS_METADATA_KEY} is no JSON object; get the file again",
            code=ErrorCode.malformed_file,
            field=DIFFUSERS_METADATA_KEY,
        )
    return {str(key).removeprefix("transformer."): value for key, value in values.items()}

"""Reads LoRA files of every spelling as an adapter: low-rank pairs in PEFT's names, and changes of whole parameters."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fantasytalking.checkpoints.few_step_lora import checked_lora_layers
from fantasytalking.checkpoints.lora_names import LoraTensorName
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.text_files import read_json
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

PEFT_CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA for one model. The update of a weight is B A, as the scale is part of B."""

    pairs: dict[str, Tensor]
    """`LAYER.lora_A.weight` and `LAYER.lora_B.weight` in diffusers' names."""
    changes: dict[str, Tensor]
    """Changes of norms, biases, convolutions and modulation, by parameter."""


def read_lora_adapter(
    model: FantasyTalkingTransformer3DModel,
    state: Mapping[str, Tensor],
    source: str,
    peft_config: Mapping[str, Any] | None = None,
) -> LoraAdapter:
    """Reads the tensors of a LoRA for `model`.

    A change of the whole weight of a linear layer becomes a pair of full rank.

    Args:
        state: tensors by their names in the file.
        source: file or hub id, for messages.
        peft_config: the adapter_config.json of PEFT, which has the scale of its pairs; None: their scale is 1.

    Raises:
        InputError: a tensor is no part of a LoRA, belongs to no layer of the model, has another shape, lacks its
            counterpart or is not finite; or no layer has a pair.
    """
    layers = checked_lora_layers(model, LazyTensors.from_tensors(state, source))
    if peft_config is None and any(name.startswith(PEFT_PREFIX) for name in state):
        logger.warning("note: '%s' states no scale; 1 is assumed, as of alpha = rank", source)
    pairs: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    dtype = next(value.dtype for value in model.parameters() if value.is_floating_point() and value.itemsize > 1)
    for layer, names in layers.items():
        tensors = {part: state[name].float() for part, name in names.items()}
        scale = _scale(layer, tensors, peft_config)
        factors = [(tensors["down"], scale * tensors["up"])] if "down" in tensors else []
        if "weight" in tensors and isinstance(model.get_submodule(layer), torch.nn.Linear | _tuner_layers()):
            factors.append(_full_rank_pair(tensors.pop("weight")))
        if factors:
            pairs[f"{layer}.lora_A.weight"] = torch.cat([down for down, _ in factors]).to(dtype)
            pairs[f"{layer}.lora_B.weight"] = torch.cat([up for _, up in factors], dim=1).to(dtype)
        for part in tensors.keys() & {"weight", "bias", "modulation"}:
            changes[LoraTensorName(layer, part).parameter] = tensors[part]
    if not pairs:
        raise InputError(
            f"'{source}' contains no low-rank pair; a file that changes whole weights alone is fused: "
            "optimizations.few_step_lora",
            code=ErrorCode.malformed_file,
            field="lora",
            value=source,
        )
    return LoraAdapter(pairs, changes)


def read_peft_config(source: Any) -> dict[str, Any] | None:
    """Returns the adapter_config.json beside a local LoRA file, or in its folder; None where there is none.

    Raises:
        InputError: it is not valid JSON.
    """
    if not isinstance(source, str | Path) or not Path(source).exists():
        return None
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    path = folder / PEFT_CONFIG_FILE
    return read_json(path) if path.is_file() else None


def _scale(layer: str, tensors: Mapping[str, Tensor], peft_config: Mapping[str, Any] | None) -> float:
    if "down" not in tensors:
        return 1.0
    rank = tensors["down"].shape[0]
    if "alpha" in tensors:
        return float(tensors["alpha"]) / rank
    if peft_config is None:
        return 1.0
    patterns = peft_config.get("alpha_pattern") or {}
    own = (value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer))
    alpha = float(next(own, peft_config.get("lora_alpha", rank)))
    return alpha / (math.sqrt(rank) if peft_config.get("use_rslora") else rank)


def _full_rank_pair(change: Tensor) -> tuple[Tensor, Tensor]:
    """A and B whose product is `change` (out, in), of the smaller rank of the two exact ones."""
    rows, columns = change.shape
    return (change, torch.eye(rows)) if rows <= columns else (torch.eye(columns), change)


def _tuner_layers() -> type:
    from peft.tuners.lora import LoraLayer  # seconds to import

    return LoraLayer

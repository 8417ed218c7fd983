"""Loads the base of a run; its frozen linear layers can stay quantized, so that a large base fits on one GPU."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.common.stored_tensors import LazyTensors, QuantizedTensor
from fantasytalking.models.stored_linear import quantize_rows
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import build_from_wan, open_base
from fantasytalking.training.config import BaseQuantization, TrainConfig
from fantasytalking.training.parameter_groups import BASE_GROUP, group_of, matches_pattern

QUANTIZED_DTYPES = {BaseQuantization.int8: torch.int8, BaseQuantization.float8: torch.float8_e4m3fn}
SCALE_BYTES = 4
"""Bytes of the scale of each row."""
_BLOCK_MATRIX = re.compile(r"blocks\.\d+\.(attn[12]\.(to_|add_)|ffn\.).*weight")


def load_base(
    config: TrainConfig,
    source: str,
    module_config: Mapping[str, Any],
    dtype: torch.dtype,
    materialize: bool,
    subfolder: str,
) -> FantasyTalkingTransformer3DModel:
    """Returns the model of a run with the weights of its base, on the CPU.

    Where the base is quantized, every process reads its own layers: see `config.base_quantization`.

    Args:
        source: folder, file or hub id of the base.
        module_config: sizes of the adapter's modules.
        dtype: of the weights, and of what quantized ones are dequantized to.
        materialize: as in `load_from_wan`.
        subfolder: of the transformer.

    Raises:
        InputError: as `load_from_wan`; with `stored`, also where the file has no quantized layer.
    """
    base_config, tensors = open_base(source, subfolder)
    if config.base_quantization is BaseQuantization.none:
        return build_from_wan(base_config, module_config, tensors, dtype, materialize)
    quantized = _quantized_on_reading(config, tensors)
    return build_from_wan(base_config, module_config, quantized, dtype, materialize, keep_quantized=True)


def quantized_bytes(config: TrainConfig, model: nn.Module) -> int:
    """Returns the bytes of a frozen base's quantized weights, scales included; of `stored`, those of one-byte values.

    Args:
        model: the run's model, also on the meta device.
    """
    return sum(
        value.numel() + SCALE_BYTES * len(value)
        for name, value in model.named_parameters()
        if is_quantized(config, name)
    )


def is_quantized(config: TrainConfig, name: str) -> bool:
    """Whether a parameter is a matrix of the base that a run keeps quantized: one in a block that does not train."""
    return (
        config.base_quantization is not BaseQuantization.none
        and _BLOCK_MATRIX.fullmatch(strip_peft_name(name)) is not None
        and group_of(name) == BASE_GROUP
        and not _trains(name, config.stage.trainable)
    )


def _trains(name: str, patterns: Sequence[str]) -> bool:
    return any(matches_pattern(name, pattern) for pattern in patterns)


def _quantized_on_reading(config: TrainConfig, tensors: LazyTensors) -> LazyTensors:
    """The tensors, of which `quantized` has those that the run keeps so: as they are stored, or quantized by row."""
    names = [name for name in tensors.shapes if is_quantized(config, name)]
    if config.base_quantization is BaseQuantization.stored:
        kept = [name for name in names if name in tensors.quantized]
        return replace(tensors, quantized={name: tensors.quantized[name] for name in kept})

    def read_quantized(name: str) -> QuantizedTensor:
        return quantize_rows(tensors.read(name), QUANTIZED_DTYPES[config.base_quantization])

    return replace(tensors, quantized={name: partial(read_quantized, name) for name in names})

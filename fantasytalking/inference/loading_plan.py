"""Plans the memory that weights take, while they are loaded and afterwards."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import nn
from transformers import UMT5EncoderModel

from fantasytalking.common.stored_tensors import FLOAT8_DTYPES, MAX_DEQUANTIZED_VALUES
from fantasytalking.models.diffusers_internals import float32_module_names

CPU_ALIGNMENT = 64
"""A CPU computes only with weights at addresses that are multiples of it; others are copied."""
KEPT_QUANTIZED: Mapping[str, type[nn.Module]] = {
    "text_encoder": UMT5EncoderModel,
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
}
"""Components whose linear layers can keep what a quantized file stores."""
EMBEDDINGS = ("shared.weight",)
"""Matrices that are no weights of linear layers."""
FLOAT32_BYTES = torch.float32.itemsize
COPIED_COMPONENTS = ("vae",)
"""Components whose weights are converted to another memory format."""


OFFLOADED_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that diffusers' group offloading moves one by one."""


class LoadedWeights(NamedTuple):
    """Bytes of the weights of one component."""

    total: int
    """Once they are loaded."""
    own: int
    """The part of them in memory of the process: converted, dequantized, or at an address that a CPU does not compute
    with. The rest is used where its file is mapped, and the system drops and reads it as it needs."""
    transient: int = 0
    """Most that reading one tensor takes beyond what stays."""
    onloaded_group: int = 0
    """Most of them on a GPU at once with group offloading."""
    dequantized: int = 0
    """Most that the dequantized weight of one layer takes in every call, of weights that stay quantized."""


class StoredWeight(NamedTuple):
    """One tensor of a file."""

    num_values: int
    num_bytes: int
    dtype: torch.dtype | None
    """None: blocks of a GGUF file."""
    has_scale: bool
    is_aligned: bool
    """Whether it lies at a multiple of `CPU_ALIGNMENT`."""
    stays_quantized: bool
    """Whether its layer keeps it as it is, wherever it lies, and dequantizes it in every call."""
    is_copied: bool = False
    """Whether reading copies it whatever its dtype: of GGUF files, and of adapters, whose values a model takes over."""

    def transient_bytes(self) -> int:
        """Returns what reading it takes beyond the result: two copies in float32 of the values that are dequantized at
        once."""
        if self.stays_quantized:
            return 0
        if not self.has_scale and self.dtype is not None and self.dtype not in FLOAT8_DTYPES:
            return 0
        return 2 * FLOAT32_BYTES * min(self.num_values, MAX_DEQUANTIZED_VALUES)

    def dequantized_bytes(self, dtype: torch.dtype) -> int:
        """Returns what it takes in every call where it stays quantized: one byte per value becomes float32, which is
        scaled and converted; blocks become float16, which is converted."""
        if not self.stays_quantized:
            return 0
        return self.num_values * (torch.float16.itemsize + dtype.itemsize if self.dtype is None else 2 * FLOAT32_BYTES)


def can_stay_quantized(component: str, parameter: str, num_axes: int) -> bool:
    """Whether the layer of a parameter keeps it as its file stores it, if that is quantized and the model is to."""
    kept = KEPT_QUANTIZED.get(component)
    if kept is None or num_axes != 2 or parameter in EMBEDDINGS or not parameter.endswith(".weight"):
        return False
    return not any(part in float32_module_names(kept) for part in parameter.split("."))


def plan_component(
    component: str,
    total: int,
    stored: Iterable[StoredWeight],
    dtype: torch.dtype,
    is_for_cpu: bool,
    onloaded_group: int = 0,
) -> LoadedWeights:
    """Returns what the weights of a component take.

    Args:
        total: bytes of its parameters, all of them dequantized.
        stored: tensors of its files; those of adapters may be missing.
        dtype: that most of its parameters have.
        is_for_cpu: whether a CPU computes; another device takes weights from any address.
        onloaded_group: of `onloaded_group_bytes`.
    """
    mapped = transient = dequantized = 0
    for weight in stored:
        transient = max(transient, weight.transient_bytes())
        dequantized = max(dequantized, weight.dequantized_bytes(dtype))
        if weight.stays_quantized:
            total += weight.num_bytes - weight.num_values * dtype.itemsize
            mapped += weight.num_bytes
        elif _is_used_where_mapped(weight, dtype, is_for_cpu) and component not in COPIED_COMPONENTS:
            mapped += weight.num_bytes
    return LoadedWeights(total, max(total - mapped, 0), transient, onloaded_group, dequantized)


def _is_used_where_mapped(weight: StoredWeight, dtype: torch.dtype, is_for_cpu: bool) -> bool:
    is_plain = weight.dtype == dtype and not weight.has_scale and not weight.is_copied
    return is_plain and (weight.is_aligned or not is_for_cpu)


def loading_peak(weights: Mapping[str, LoadedWeights]) -> int:
    """Returns the most memory that loading takes: components one after the other, in the order of `weights`."""
    held = peak = 0
    for each in weights.values():
        held += each.own
        peak = max(peak, held + each.transient)
    return peak


def onloaded_groups(
    models_by_name: Mapping[str, nn.Module], num_blocks: int | None, is_prefetched: bool
) -> dict[str, int]:
    """Returns `onloaded_group_bytes` of every component."""
    return {name: onloaded_group_bytes(model, num_blocks, is_prefetched) for name, model in models_by_name.items()}


def onloaded_group_bytes(model: nn.Module, num_blocks: int | None = None, is_prefetched: bool = True) -> int:
    """Returns the most bytes of a model on a GPU at once with group offloading.

    Args:
        num_blocks: blocks of a transformer that move together; everything of it that is no block is one more group.
            None: single layers.
        is_prefetched: whether the next group is copied while one computes.
    """
    blocks = getattr(model, "blocks", None)
    if num_blocks is not None and isinstance(blocks, nn.ModuleList):
        sizes = [_parameter_bytes(block) for block in blocks]
        others = _parameter_bytes(model) - sum(sizes)
        return others + max(sizes) * min(num_blocks * (2 if is_prefetched else 1), len(sizes))
    layers = [set(layer.parameters()) for layer in model.modules() if isinstance(layer, OFFLOADED_LAYERS)]
    if is_prefetched:
        layers = [first | second for first, second in zip(layers, [*layers[1:], set()], strict=True)]
    return max((sum(value.nbytes for value in layer) for layer in layers), default=0)


def _parameter_bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.parameters())

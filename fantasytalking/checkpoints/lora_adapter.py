"""Reads LoRA files of every spelling as an adapter: low-rank pairs in PEFT's names, and changes of whole parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.checkpoints.lora_fusion import (
    LayerTensors,
    checked_lora_layers,
    fuse_lora_file,
    lora_scales,
    pair_product,
    sort_by_layer,
)
from fantasytalking.checkpoints.lora_names import LoraTensorName
from fantasytalking.checkpoints.lora_scale import note_assumed_scale, read_peft_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import open_safetensors
from fantasytalking.models.lora_schedule import LoraSchedule, StepStrength
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

MAGNITUDE_ENDING = ".lora_magnitude_vector"
"""Ending of PEFT's name of DoRA's magnitudes of a layer."""


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA for one model. The update of a weight is B A, as the scale is part of B."""

    pairs: dict[str, Tensor]
    """`LAYER.lora_A.weight`, `LAYER.lora_B.weight` and DoRA's `LAYER.lora_magnitude_vector` in diffusers' names."""
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
        peft_config: PEFT's configuration, which has the scale of its pairs; None: their scale is 1.

    Raises:
        InputError: a tensor is no part of a LoRA, belongs to no layer of the model, has another shape, lacks its
            counterpart or is not finite; or no layer has a pair.
    """
    stored = LazyTensors.from_tensors(state, source)
    layers = checked_lora_layers(model, stored)
    scales = lora_scales(layers, stored, peft_config)
    note_assumed_scale(state, peft_config, source)
    pairs: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for layer, names in layers.items():
        tensors = {part: state[name].float() for part, name in names.items()}
        factors = []
        if "down" in tensors and tensors["down"].ndim > 2:  # of a convolution
            change = scales[layer] * pair_product(tensors["up"], tensors["down"])
            tensors["weight"] = change + tensors["weight"] if "weight" in tensors else change
        elif "down" in tensors:
            factors.append((tensors["down"], scales[layer] * tensors["up"]))
        if "weight" in tensors and isinstance(model.get_submodule(layer), torch.nn.Linear | _tuner_layers()):
            factors.append(_full_rank_pair(tensors.pop("weight")))
        if factors:
            pairs[f"{layer}.lora_A.weight"] = torch.cat([down for down, _ in factors]).to(model.dtype)
            pairs[f"{layer}.lora_B.weight"] = torch.cat([up for _, up in factors], dim=1).to(model.dtype)
        if "magnitude" in tensors:
            pairs[f"{layer}{MAGNITUDE_ENDING}"] = tensors["magnitude"].flatten().to(model.dtype)
        for part in tensors.keys() & {"weight", "bias", "modulation"}:
            changes[LoraTensorName(layer, part).parameter] = tensors[part]
    _check_magnitudes(model, layers, pairs, stored)
    if not pairs:
        raise InputError(
            f"'{source}' contains no low-rank pair; a file that changes whole weights alone is fused: "
            "optimizations.loras=[{path: FILE}]",
            code=ErrorCode.malformed_file,
            field="lora",
            value=source,
        )
    return LoraAdapter(pairs, changes)


class ScaledLora(NamedTuple):
    """A LoRA file and how strongly it is applied."""

    path: Path
    """.safetensors file."""
    scale: float = 1.0
    strength: StepStrength = StepStrength()


def apply_lora_files(model: FantasyTalkingTransformer3DModel, files: Sequence[ScaledLora]) -> None:
    """Adds the LoRAs of safetensors files.

    They are fused, except those that change weights which stay as stored, or whose strength changes from step to step:
    the layers of these are computed beside those of the base, which takes memory and time, and adds up to the same but
    for rounding. The model's `lora_schedule` then sets their strength.

    Raises:
        InputError: as `fuse_lora_file` or `read_lora_adapter`.
    """
    stored = set(map(strip_peft_name, stored_weight_names(model)))
    unfused = [
        file
        for file in files
        if not file.strength.is_constant or (stored and _changed_weights(model, file.path) & stored)
    ]
    for file in files:
        if file not in unfused:
            fuse_lora_file(model, file.path, file.scale)
    if unfused:
        _attach_lora_files(model, unfused)


def _changed_weights(model: FantasyTalkingTransformer3DModel, path: Path) -> set[str]:
    layers = sort_by_layer(open_safetensors(path), len(model.blocks))
    return {f"{layer}.weight" for layer, parts in layers.items() if parts.keys() & {"down", "weight"}}


def _attach_lora_files(model: FantasyTalkingTransformer3DModel, files: Sequence[ScaledLora]) -> None:
    """Adds the files as adapters; those that the model has stay active."""
    changing: dict[str, tuple[float, StepStrength]] = {}
    scales = dict.fromkeys(getattr(model, "peft_config", {}), 1.0)
    for number, (path, scale, strength) in enumerate(files):
        name, state = f"file_{number}", open_safetensors(path).read_all()
        adapter = read_lora_adapter(model, state, str(path), read_peft_config(path))
        magnitude = next((key for key in adapter.pairs if key.endswith(MAGNITUDE_ENDING)), None)
        if magnitude is not None:
            raise InputError(
                f"'{path}': '{magnitude}' is of DoRA, whose strength cannot change from step to step; leave out its "
                "strength, start and stop",
                code=ErrorCode.unsupported,
                field=magnitude,
            )
        model.load_lora_adapter(adapter.pairs, prefix=None, adapter_name=name, low_cpu_mem_usage=True)
        model.add_full_changes(name, adapter.changes)
        scales[name] = scale
        if not strength.is_constant:
            changing[name] = (scale, strength)
    model.set_adapters(list(scales), list(scales.values()))
    model.requires_grad_(False)
    if changing:
        constant = {name: scale for name, scale in scales.items() if name not in changing}
        model.lora_schedule = LoraSchedule(model, constant, changing)


def _check_magnitudes(
    model: FantasyTalkingTransformer3DModel,
    layers: Mapping[str, LayerTensors],
    pairs: Mapping[str, Tensor],
    stored: LazyTensors,
) -> None:
    """Checks that PEFT computes the file's DoRA as it is: by rows, of all linear layers, from dense weights."""
    magnitudes = {layer: parts["magnitude"] for layer, parts in layers.items() if "magnitude" in parts}
    kept = set(map(strip_peft_name, stored_weight_names(model)))
    is_partial = any(f"{layer}.lora_A.weight" in pairs for layer in layers.keys() - magnitudes.keys())
    for layer, name in magnitudes.items():
        shape, cure = stored.shapes[name], "fuse it: optimizations.loras=[{path: FILE}]"
        if f"{layer}.weight" in kept:
            problem, cure = "the base's weight stays quantized", "use optimizations.quantization=none"
        elif is_partial or "weight" in layers[layer]:
            problem = "the file also changes linear layers without DoRA"
        elif len(shape) == 2 and shape[0] == 1:
            problem = "it is DoRA by columns"
        else:
            continue
        raise InputError(
            f"'{stored.source}': '{name}' cannot be computed beside the base: {problem}; {cure}",
            code=ErrorCode.unsupported,
            field=name,
        )


def _full_rank_pair(change: Tensor) -> tuple[Tensor, Tensor]:
    """A and B whose product is `change` (out, in), of the smaller rank of the two exact ones."""
    rows, columns = change.shape
    return (change, torch.eye(rows)) if rows <= columns else (torch.eye(columns), change)


def _tuner_layers() -> type:
    from peft.tuners.lora import LoraLayer  # seconds to import

    return LoraLayer

"""Fuses LoRA files, such as those of few-step distillations, permanently into a Wan base.

Two formats are supported: PEFT's (lora_A, lora_B) and kohya's (lora_down, lora_up, alpha), each with Wan's original
names, also flat, or diffusers', with DoRA's magnitudes (arXiv 2402.09353), and additionally full changes of a weight,
bias or modulation (diff, diff_b, diff_m).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.checkpoints.lora_names import LoraTensorName, parse_lora_name
from fantasytalking.checkpoints.lora_scale import note_assumed_scale, pair_scale, read_peft_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_finite, open_safetensors
from fantasytalking.models.stored_linear import logical_shape
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

LayerTensors = dict[str, str]
"""Names in the file by part (see `LoraTensorName`)."""


@torch.no_grad()
def fuse_lora_file(model: FantasyTalkingTransformer3DModel, path: Path, scale: float = 1.0) -> int:
    """Adds scale * alpha / rank * B A, and full changes, to the weights.

    All tensors are validated before the first weight is changed. Several files are fused one after another.

    Args:
        model: transformer to change.
        path: safetensors file of the LoRA.
        scale: factor of all changes.

    Returns:
        Number of changed layers.

    Raises:
        InputError: the file is not safetensors, or a tensor belongs to no layer of the model, has another shape, lacks
            its counterpart or is not finite; or a changed weight is not finite in the model's dtype.
    """
    stored, source = open_safetensors(path), str(path)
    layers = checked_lora_layers(model, stored)
    peft_config = read_peft_config(path)
    note_assumed_scale(stored.shapes, peft_config, source)
    scales = lora_scales(layers, stored, peft_config)
    parameters: dict[str, Tensor] = {strip_peft_name(name): value for name, value in model.named_parameters()}
    for layer, parts in layers.items():
        tensors = {part: stored.read(name).float() for part, name in parts.items()}
        if "down" in tensors:
            change = scales[layer] * pair_product(tensors["up"], tensors["down"])
            if "magnitude" in tensors:
                change = _dora_change(parameters[f"{layer}.weight"].float().cpu(), change, tensors["magnitude"])
            _add_in_place(f"{layer}.weight", parameters, scale * change, source)
        for part in ("weight", "bias", "modulation"):
            if part in tensors:
                _add_in_place(LoraTensorName(layer, part).parameter, parameters, scale * tensors[part], source)
    return len(layers)


def checked_lora_layers(model: FantasyTalkingTransformer3DModel, stored: LazyTensors) -> dict[str, LayerTensors]:
    """Returns the tensors of a LoRA by layer of the model, in diffusers' names, and validates them all.

    Raises:
        InputError: a tensor belongs to no layer of the model, has another shape, lacks its counterpart or is not
            finite.
    """
    layers = sort_by_layer(stored, len(model.blocks))
    parameters: dict[str, Tensor] = {strip_peft_name(name): value for name, value in model.named_parameters()}
    for layer, parts in layers.items():
        shapes = {part: stored.shapes[name] for part, name in parts.items()}
        _check_layer(layer, shapes, parameters, stored.source)
    for parts in layers.values():
        for part, name in parts.items():
            tensor = stored.read(name)
            # kohya stores some alphas as integers
            check_finite({name: tensor.float() if part == "alpha" else tensor}, stored.source)
    return layers


def sort_by_layer(stored: LazyTensors, num_layers: int) -> dict[str, LayerTensors]:
    """Returns the tensors of a LoRA by layer, in diffusers' names.

    Raises:
        InputError: there are none, one is no part of a LoRA, or two are spellings of one.
    """
    layers: dict[str, LayerTensors] = {}
    if not stored.shapes:
        raise InputError(
            f"'{stored.source}' contains no tensors; get the file again",
            code=ErrorCode.malformed_file,
            field=stored.source,
        )
    for name in stored.shapes:
        layer, part = parse_lora_name(name, num_layers, stored.source)
        parts = layers.setdefault(layer, {})
        if part in parts:
            raise InputError(
                f"'{stored.source}' contains '{parts[part]}' and '{name}', two spellings of one tensor; get the file "
                "again",
                code=ErrorCode.malformed_file,
                field=name,
            )
        parts[part] = name
    return layers


def _check_layer(layer: str, shapes: dict[str, tuple[int, ...]], parameters: dict[str, Tensor], source: str) -> None:
    needed = {LoraTensorName(layer, part).parameter for part in shapes}
    if missing := sorted(needed - parameters.keys()):
        has_layer = f"{layer}.weight" in parameters
        what = f"'{missing[0]}'" if has_layer or not layer else f"the layer '{layer}'"
        raise InputError(
            f"'{source}' changes {what}, which this model lacks; use a LoRA for its base",
            code=ErrorCode.shape_mismatch,
            field=layer,
        )
    if ("down" in shapes) != ("up" in shapes) or (shapes.keys() & {"alpha", "magnitude"} and "down" not in shapes):
        raise InputError(
            f"'{source}' contains half a pair for the layer '{layer}'; get the file again",
            code=ErrorCode.malformed_file,
            field=layer,
        )
    if shapes.get("alpha", ()) not in ((), (1,)):
        raise InputError(
            f"'{source}': alpha of '{layer}' has shape {shapes['alpha']}; one number is required",
            code=ErrorCode.shape_mismatch,
            field=layer,
            value=shapes["alpha"],
        )
    if "down" in shapes:
        own = logical_shape(parameters[f"{layer}.weight"])
        _check_pair(layer, shapes["up"], shapes["down"], own, source)
        _check_magnitude(layer, shapes.get("magnitude"), own, source)
    for part in ("weight", "bias", "modulation"):
        name = LoraTensorName(layer, part).parameter
        if part in shapes and logical_shape(parameters[name]) != shapes[part]:
            raise InputError(
                f"'{source}': the change of '{name}' has shape {shapes[part]}, which does not fit the model's "
                f"{logical_shape(parameters[name])}; use a LoRA for its base",
                code=ErrorCode.shape_mismatch,
                field=name,
                value=shapes[part],
            )


def _check_pair(layer: str, up: tuple[int, ...], down: tuple[int, ...], own: tuple[int, ...], source: str) -> None:
    """Checks the shapes of a pair; of a convolution, A is one of `rank` channels, and B is 1 x 1."""
    fits = len(down) == len(up) == len(own) >= 2 and down[0] == up[1] > 0 and (up[0], *down[1:]) == own
    if fits and all(size == 1 for size in up[2:]):
        return
    raise InputError(
        f"'{source}': the pair of '{layer}' has shapes {up} and {down}, but the model's weight is {own}; use a LoRA "
        "for its base",
        code=ErrorCode.shape_mismatch,
        field=layer,
        value=(up, down),
    )


def _check_magnitude(layer: str, shape: tuple[int, ...] | None, own: tuple[int, ...], source: str) -> None:
    if shape is None or (len(own) == 2 and shape in (own[:1], (own[0], 1), (1, own[1]))):
        return
    raise InputError(
        f"'{source}': DoRA's magnitude of '{layer}' has the shape {shape}, but the model's weight is {own}; use a LoRA "
        "for its base",
        code=ErrorCode.shape_mismatch,
        field=layer,
        value=shape,
    )


def lora_scales(
    layers: Mapping[str, LayerTensors], stored: LazyTensors, peft_config: Mapping[str, Any] | None
) -> dict[str, float]:
    """Returns the scale of every layer that has a pair (see `pair_scale`).

    Raises:
        InputError: as `pair_scale`.
    """
    scales = {}
    for layer, parts in layers.items():
        if "down" in parts:
            alpha = float(stored.read(parts["alpha"])) if "alpha" in parts else None
            scales[layer] = pair_scale(layer, stored.shapes[parts["down"]][0], alpha, peft_config, stored.source)
    return scales


def pair_product(up: Tensor, down: Tensor) -> Tensor:
    """Returns B A in the shape of the layer's weight, which may be a convolution's."""
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _dora_change(weight: Tensor, change: Tensor, magnitude: Tensor) -> Tensor:
    """Returns the change of a weight (out, in) by DoRA: of the sum, with rows or columns of the given magnitudes."""
    by_column = magnitude.ndim == 2 and magnitude.shape[0] == 1 and weight.shape[0] != 1
    changed = weight + change
    norms = changed.norm(dim=0 if by_column else 1, keepdim=True)
    return changed * (magnitude.reshape(norms.shape) / norms.clamp_min(torch.finfo(norms.dtype).tiny)) - weight


def _add_in_place(name: str, parameters: dict[str, Tensor], delta: Tensor, source: str) -> None:
    parameter = parameters[name]
    changed = (parameter.float() + delta.to(parameter.device)).to(parameter.dtype)
    if not bool(torch.isfinite(changed).all()):
        raise InputError(
            f"'{source}' makes '{name}' infinite in {parameter.dtype}; lower its scale or use another file",
            code=ErrorCode.malformed_file,
            field=name,
        )
    parameter.copy_(changed)

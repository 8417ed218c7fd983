"""Fuses LoRA files of few-step distillations permanently into a Wan base.

Two formats are supported: PEFT's (lora_A, lora_B) and kohya's (lora_down, lora_up, alpha), each with Wan's original
names or diffusers', and additionally full changes of a weight or bias (diff, diff_b).
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.tensor_io import open_safetensors
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

KEY_PREFIXES = ("diffusion_model.", "transformer.", "base_model.model.")
KEY_SUFFIXES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "alpha": "alpha",
    "diff": "weight",
    "diff_b": "bias",
}
WAN_TO_DIFFUSERS = (
    (r"\.self_attn\.([qkv])$", r".attn1.to_\1"),
    (r"\.self_attn\.o$", ".attn1.to_out.0"),
    (r"\.cross_attn\.([qkv])$", r".attn2.to_\1"),
    (r"\.cross_attn\.o$", ".attn2.to_out.0"),
    (r"\.cross_attn\.([kv])_img$", r".attn2.add_\1_proj"),
    (r"\.(self_attn|cross_attn)\.norm_([qk])$", lambda hit: f".attn{1 if hit[1] == 'self_attn' else 2}.norm_{hit[2]}"),
    (r"\.cross_attn\.norm_k_img$", ".attn2.norm_added_k"),
    (r"\.ffn\.0$", ".ffn.net.0.proj"),
    (r"\.ffn\.2$", ".ffn.net.2"),
    (r"\.norm3$", ".norm2"),
    (r"^text_embedding\.0$", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2$", "condition_embedder.text_embedder.linear_2"),
    (r"^time_embedding\.0$", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2$", "condition_embedder.time_embedder.linear_2"),
    (r"^time_projection\.1$", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0$", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1$", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3$", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4$", "condition_embedder.image_embedder.norm2"),
    (r"^head\.head$", "proj_out"),
)
"""Patterns of Wan's layer names and their replacements in diffusers' names."""


@torch.no_grad()
def fuse_few_step_lora(model: FantasyTalkingTransformer3DModel, path: Path, scale: float = 1.0) -> int:
    """Adds scale * alpha / rank * B A, and full changes, to the weights.

    All tensors are validated before the first weight is changed.

    Args:
        model: transformer to change.
        path: safetensors file of the LoRA.
        scale: factor of all changes.

    Returns:
        Number of changed layers.

    Raises:
        InputError: the file is not safetensors, or a tensor belongs to no layer of the model, has another shape or
            lacks its counterpart.
    """
    stored = open_safetensors(path)
    layers: dict[str, dict[str, str]] = {}
    for name in stored.shapes:
        layer, part = _parse_key(name, str(path))
        layers.setdefault(layer, {})[part] = name
    parameters = dict(model.named_parameters())
    for layer, parts in layers.items():
        _check_layer(layer, {part: stored.shapes[name] for part, name in parts.items()}, parameters, str(path))
    for layer, parts in layers.items():
        tensors = {part: stored.read(name).float() for part, name in parts.items()}
        if "down" in tensors:
            _add_in_place(parameters[f"{layer}.weight"], scale * _lora_delta(tensors))
        for part in ("weight", "bias"):
            if part in tensors:
                _add_in_place(parameters[f"{layer}.{part}"], scale * tensors[part])
    return len(layers)


def _parse_key(name: str, source: str) -> tuple[str, str]:
    """Returns the layer in diffusers' name and the tensor's part of it."""
    plain = next((name.removeprefix(prefix) for prefix in KEY_PREFIXES if name.startswith(prefix)), name)
    for ending, part in KEY_SUFFIXES.items():
        if plain.endswith(f".{ending}"):
            layer = plain.removesuffix(f".{ending}")
            for pattern, replacement in WAN_TO_DIFFUSERS:
                layer = re.sub(pattern, replacement, layer)
            return layer, part
    raise InputError(
        f"'{source}' contains '{name}', which is no part of a LoRA; use a LoRA file for Wan 2.1",
        code=ErrorCode.malformed_file,
        field=name,
    )


def _check_layer(layer: str, shapes: dict[str, tuple[int, ...]], parameters: dict[str, Tensor], source: str) -> None:
    weight = parameters.get(f"{layer}.weight")
    if weight is None:
        raise InputError(
            f"'{source}' changes the layer '{layer}', which this model lacks; use a LoRA for its base",
            code=ErrorCode.shape_mismatch,
            field=layer,
        )
    if ("down" in shapes) != ("up" in shapes) or shapes.keys() == {"alpha"}:
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
    down, up = shapes.get("down"), shapes.get("up")
    if down and up and (len(down) != 2 or len(up) != 2 or down[0] != up[1] or (up[0], down[1]) != tuple(weight.shape)):
        raise InputError(
            f"'{source}': the pair of '{layer}' has shapes {up} and {down}, but the model's weight is "
            f"{tuple(weight.shape)}; use a LoRA for its base",
            code=ErrorCode.shape_mismatch,
            field=layer,
            value=(up, down),
        )
    for part in ("weight", "bias"):
        own = parameters.get(f"{layer}.{part}")
        if part in shapes and (own is None or tuple(own.shape) != shapes[part]):
            raise InputError(
                f"'{source}': the change of '{layer}.{part}' has shape {shapes[part]}, which does not fit the "
                f"model's {None if own is None else tuple(own.shape)}; use a LoRA for its base",
                code=ErrorCode.shape_mismatch,
                field=f"{layer}.{part}",
                value=shapes[part],
            )


def _lora_delta(tensors: dict[str, Tensor]) -> Tensor:
    rank = tensors["down"].shape[0]
    alpha = float(tensors["alpha"]) if "alpha" in tensors else float(rank)
    return alpha / rank * (tensors["up"] @ tensors["down"])


def _add_in_place(parameter: Tensor, delta: Tensor) -> None:
    parameter.copy_(parameter.float() + delta.to(parameter.device))

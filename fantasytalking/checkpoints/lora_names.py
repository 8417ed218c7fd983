"""Names of the layers and tensors of LoRA files for Wan: their spellings, and the model's layer of each."""

import re
from functools import cache
from typing import NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError

KEY_PREFIXES = (
    *("model.diffusion_model.", "diffusion_model.", "transformer.", "base_model.model.", "pipe.dit.", "dit."),
    *("model.", "unet."),
)
FLAT_PREFIX = "lora_unet_"
"""Prefix of names in which underscores replace the dots of the layer (kohya, musubi-tuner, VideoX-Fun)."""
KEY_SUFFIXES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_B.bias": "bias",
    "alpha": "alpha",
    "diff": "weight",
    "diff_b": "bias",
    "diff_m": "modulation",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector.default": "magnitude",
    "lora_magnitude_vector.default.weight": "magnitude",
}
UNSUPPORTED_SUFFIXES = {
    "reshape_weight": "reshaping",
    "lora_mid": "LoCon",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lokr_t": "LoKr",
    "oft_": "OFT",
    "on_input": "IA3",
}
"""Beginnings of the last part of a name, and the method that they belong to, which is not read."""
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
_BLOCK_LAYERS = (
    *(f"self_attn.{layer}" for layer in ("q", "k", "v", "o", "norm_q", "norm_k")),
    *(f"cross_attn.{layer}" for layer in ("q", "k", "v", "o", "k_img", "v_img", "norm_q", "norm_k", "norm_k_img")),
    *("ffn.0", "ffn.2", "norm3"),
)
_OTHER_LAYERS = (
    *("text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2", "time_projection.1"),
    *("img_emb.proj.0", "img_emb.proj.1", "img_emb.proj.3", "img_emb.proj.4", "head.head", "patch_embedding"),
)
"""Wan's names of its layers, in a block and outside."""


class LoraTensorName(NamedTuple):
    """What a tensor of a LoRA file belongs to."""

    layer: str
    """Layer in diffusers' name; "" for the model itself, whose modulation is that of Wan's head."""
    part: str
    """down, up, alpha or DoRA's magnitude of a pair, or a change of the weight, bias or modulation."""

    @property
    def parameter(self) -> str:
        """Name of the parameter that it changes."""
        name = {"bias": "bias", "modulation": "scale_shift_table"}.get(self.part, "weight")
        return f"{self.layer}.{name}" if self.layer else name


def parse_lora_name(name: str, num_layers: int, source: str) -> LoraTensorName:
    """Parses the name of a tensor in a LoRA file.

    Args:
        name: with or without a prefix, in Wan's or diffusers' names, or flat (`FLAT_PREFIX`).
        num_layers: number of the model's blocks.
        source: name of the file in messages.

    Raises:
        InputError: the name is no part of a LoRA, or one of a method that is not read.
    """
    plain = next((name.removeprefix(prefix) for prefix in KEY_PREFIXES if name.startswith(prefix)), name)
    for ending, part in KEY_SUFFIXES.items():
        if plain.endswith(f".{ending}"):
            layer = plain.removesuffix(f".{ending}")
            if layer.startswith(FLAT_PREFIX):
                flat = layer.removeprefix(FLAT_PREFIX).lstrip("_")
                layer = _flat_layers(num_layers).get(flat, flat)
            return LoraTensorName(_diffusers_layer(layer), part)
    last = plain.removesuffix(".weight").rpartition(".")[2]
    method = next((method for start, method in UNSUPPORTED_SUFFIXES.items() if last.startswith(start)), None)
    problem = "which is no part of a LoRA" if method is None else f"which belongs to {method}; it is not supported"
    raise InputError(
        f"'{source}' contains '{name}', {problem}; use a LoRA file for Wan",
        code=ErrorCode.malformed_file if method is None else ErrorCode.unsupported,
        field=name,
    )


def _diffusers_layer(layer: str) -> str:
    if layer == "head":
        return ""  # the modulation of Wan's head is the model's own in diffusers
    for pattern, replacement in WAN_TO_DIFFUSERS:
        layer = re.sub(pattern, replacement, layer)
    return layer


@cache
def _flat_layers(num_layers: int) -> dict[str, str]:
    """Returns every layer by its name with underscores, in Wan's names and in diffusers'."""
    blocks = [f"blocks.{block}.{layer}" for block in range(num_layers) for layer in _BLOCK_LAYERS]
    blocks += [f"blocks.{block}" for block in range(num_layers)]
    names = [*blocks, *_OTHER_LAYERS, "head"]
    return {name.replace(".", "_"): name for layer in names for name in (layer, _diffusers_layer(layer)) if name}

"""CLIP's vision transformer in a single file: Wan's names and those of transformers."""

import math
from pathlib import Path

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights
from fantasytalking.encoders.loading import ATTENTION_IMPLEMENTATION
from fantasytalking.encoders.single_files.building import (
    axis_sizes,
    build_from_tensors,
    layer_count,
    renamed_by_patterns,
)

_HEAD_DIM = 80
"""Width of an attention head of ViT-H, which does not follow from the shapes."""
_REQUIREMENT = "Wan's image encoder: models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth or clip_vision_h"

_WAN_LAYER = r"(?:visual\.)?transformer\.(\d+)"
_WAN_NAMES = (
    (r"(?:visual\.)?cls_embedding", "embeddings.class_embedding"),
    (r"(?:visual\.)?patch_embedding\.weight", "embeddings.patch_embedding.weight"),
    (r"(?:visual\.)?pos_embedding", "embeddings.position_embedding.weight"),
    (r"(?:visual\.)?pre_norm\.(weight|bias)", r"pre_layrnorm.\1"),
    (r"(?:visual\.)?post_norm\.(weight|bias)", r"post_layernorm.\1"),
    (rf"{_WAN_LAYER}\.norm([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
    (rf"{_WAN_LAYER}\.attn\.to_qkv\.(weight|bias)", r"encoder.layers.\1.self_attn.qkv.\2"),
    (rf"{_WAN_LAYER}\.attn\.proj\.(weight|bias)", r"encoder.layers.\1.self_attn.out_proj.\2"),
    (rf"{_WAN_LAYER}\.mlp\.0\.(weight|bias)", r"encoder.layers.\1.mlp.fc1.\2"),
    (rf"{_WAN_LAYER}\.mlp\.2\.(weight|bias)", r"encoder.layers.\1.mlp.fc2.\2"),
)
_TRANSFORMERS_NAMES = ((r"vision_model\.(.+)", r"\1"),)
_IGNORED = (
    *(r"textual\..+", r"log_scale", r"logit_scale", r"(?:visual\.)?head", r"visual_projection\.weight"),
    *(r"text_model\..+", r"text_projection\.weight", r"(?:vision_model\.)?embeddings\.position_ids"),
)
"""Parts of CLIP that encode text or project to the space of text."""


def load_image_encoder_file(
    path: Path, dtype: torch.dtype = torch.float32
) -> tuple[CLIPVisionModel, CLIPImageProcessorPil]:
    """Loads CLIP's vision transformer from Wan's .pth or a repack, and its image processor.

    Args:
        path: a file of `WEIGHT_SUFFIXES`.
        dtype: dtype of the weights.

    Raises:
        InputError: the file cannot be read, is another model, or has tensors too few or too many.
    """
    config, tensors = open_image_encoder_file(path)
    model = build_from_tensors(
        lambda: CLIPVisionModel._from_config(config, attn_implementation=ATTENTION_IMPLEMENTATION),
        tensors,
        dtype,
        "image encoder",
    )
    size = {"height": config.image_size, "width": config.image_size}
    return model, CLIPImageProcessorPil(size={"shortest_edge": config.image_size}, crop_size=size)


def open_image_encoder_file(path: Path) -> tuple[CLIPVisionConfig, LazyTensors]:
    """Returns the configuration that follows from the shapes in a file, and its tensors in transformers' names.

    Raises:
        InputError: the file cannot be read or is another model.
    """
    tensors = _with_transformers_names(open_weights(path))
    width = axis_sizes(tensors, "embeddings.class_embedding", 1, _REQUIREMENT)[0]
    patch = axis_sizes(tensors, "embeddings.patch_embedding.weight", 4, _REQUIREMENT)[-1]
    positions = axis_sizes(tensors, "embeddings.position_embedding.weight", 2, _REQUIREMENT)[0]
    side = math.isqrt(positions - 1) * patch
    if width % _HEAD_DIM:
        raise InputError(
            f"image encoder '{path}' has the width {width}, not a multiple of {_HEAD_DIM}; it must be {_REQUIREMENT}",
            code=ErrorCode.shape_mismatch,
            field="embeddings.class_embedding",
            value=width,
        )
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=axis_sizes(tensors, "encoder.layers.0.mlp.fc1.weight", 2, _REQUIREMENT)[0],
        num_hidden_layers=layer_count(tensors, "encoder.layers."),
        num_attention_heads=width // _HEAD_DIM,
        image_size=side,
        patch_size=patch,
        hidden_act="gelu",
    )
    return config, tensors


def _with_transformers_names(tensors: LazyTensors) -> LazyTensors:
    is_transformers = any("layer_norm1." in name for name in tensors.shapes)
    if is_transformers:
        return renamed_by_patterns(tensors, _TRANSFORMERS_NAMES, _IGNORED)
    return _split(renamed_by_patterns(tensors, _WAN_NAMES, _IGNORED))


def _split(tensors: LazyTensors) -> LazyTensors:
    """Splits queries, keys and values, and removes axes of length 1 from the embeddings."""
    sources: dict[str, tuple[str, int | None]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in tensors.shapes.items():
        if ".self_attn.qkv." in name and shape and shape[0] % 3 == 0:
            for part, kind in enumerate("qkv"):
                new = name.replace(".qkv.", f".{kind}_proj.")
                sources[new], shapes[new] = (name, part), (shape[0] // 3, *shape[1:])
        else:
            sources[name] = (name, None)
            is_embedding = name.startswith("embeddings.") and "patch" not in name
            shapes[name] = _without_ones(shape) if is_embedding else shape

    def read(name: str) -> torch.Tensor:
        source, part = sources[name]
        value = tensors.read(source)
        return value.reshape(shapes[name]) if part is None else value.chunk(3)[part].clone()

    return LazyTensors(tensors.source, shapes, read)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape

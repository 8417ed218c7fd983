"""Builds the components of a base without memory for their weights, in the sizes of its files or of the published ones.

Sizes: config.json of Wan-AI/Wan2.1-I2V-14B-720P-Diffusers, Wan-AI/Wan2.2-TI2V-5B-Diffusers and
facebook/wav2vec2-base-960h.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.single_files.image_encoder import open_image_encoder_file
from fantasytalking.encoders.single_files.text_encoder import open_text_encoder_file
from fantasytalking.encoders.single_files.vae import open_vae_file
from fantasytalking.encoders.vae_config import PUBLISHED_VAES
from fantasytalking.models.presets import ModelConfig, build_meta_transformer

UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}
CLIP_VIT_H: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def build_meta_components(
    preset: ModelConfig,
    base: Path | None = None,
    num_layers: int | None = None,
    files: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, nn.Module]:
    """Returns every model of a pipeline on the meta device, by component, in evaluation mode.

    Args:
        preset: sizes of the transformer and of the paper's modules.
        base: folder in diffusers' layout whose configurations are followed where it has them; None: the published ones.
        num_layers: most layers of transformer, text and image encoder; None: all.
        files: single files whose shapes, and folders whose configurations are followed before those, by component.

    Raises:
        InputError: the preset has a width that no published component has, and there is nothing to follow; or a file
            is damaged or another model.
    """
    paths = {} if base is None else {path.parent.name: path.parent for path in base.glob("*/config.json")}
    paths |= {name: path for name, path in files.items() if path.is_file() or (path / "config.json").is_file()}
    if num_layers is not None:
        preset = replace(preset, wan=replace(preset.wan, num_layers=min(num_layers, preset.wan.num_layers)))
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "vae": _vae(paths.get("vae"), preset),
            "text_encoder": UMT5EncoderModel(_text_config(paths.get("text_encoder"), preset, num_layers)),
        }
        if preset.wan.image_dim is not None:
            models["image_encoder"] = CLIPVisionModel(_image_config(paths.get("image_encoder"), preset, num_layers))
        models["audio_encoder"] = _audio_encoder(paths.get("audio_encoder"), preset)
    models["transformer"] = build_meta_transformer(preset)
    if preset.boundary_ratio is not None:
        models["transformer_2"] = build_meta_transformer(preset)
    return {name: model.eval().requires_grad_(False) for name, model in models.items()}


def _vae(path: Path | None, preset: ModelConfig) -> AutoencoderKLWan:
    if path is not None and path.is_file():
        return AutoencoderKLWan(**open_vae_file(path)[0])
    if path is not None:
        return AutoencoderKLWan.from_config({**read_json(path / "config.json")})
    channels = preset.wan.out_channels
    if channels not in PUBLISHED_VAES:
        raise _unpublished("wan.out_channels", channels, PUBLISHED_VAES)
    return AutoencoderKLWan(**PUBLISHED_VAES[channels])


def _text_config(path: Path | None, preset: ModelConfig, num_layers: int | None) -> UMT5Config:
    if path is None and preset.wan.text_dim != UMT5_XXL["d_model"]:
        raise _unpublished("wan.text_dim", preset.wan.text_dim, [UMT5_XXL["d_model"]])
    if path is not None and path.is_file():
        config = open_text_encoder_file(path)[0]
    else:
        config = UMT5Config(**(UMT5_XXL if path is None else read_json(path / "config.json")))
    config.num_layers = min(config.num_layers, num_layers or config.num_layers)
    return config


def _image_config(path: Path | None, preset: ModelConfig, num_layers: int | None) -> CLIPVisionConfig:
    if path is None and preset.wan.image_dim != CLIP_VIT_H["hidden_size"]:
        raise _unpublished("wan.image_dim", preset.wan.image_dim, [CLIP_VIT_H["hidden_size"]])
    if path is not None and path.is_file():
        config = open_image_encoder_file(path)[0]
    else:
        config = CLIPVisionConfig(**(CLIP_VIT_H if path is None else read_json(path / "config.json")))
    config.num_hidden_layers = min(config.num_hidden_layers, max(2, num_layers or config.num_hidden_layers))
    return config


def _audio_encoder(path: Path | None, preset: ModelConfig) -> nn.Module:
    if path is not None and path.is_dir():
        model: nn.Module = AutoModel.from_config(AutoConfig.from_pretrained(path, trust_remote_code=False))
        return model
    config = Wav2Vec2Config()
    if preset.portrait.audio_dim != config.hidden_size:
        raise _unpublished("portrait.audio_dim", preset.portrait.audio_dim, [config.hidden_size])
    return Wav2Vec2Model(config)


def _unpublished(field: str, value: int | None, known: Any) -> InputError:
    return InputError(
        f"{field} is {value}, but the published components have {', '.join(map(str, known))}; get the base first",
        code=ErrorCode.unsupported,
        field=field,
        value=value,
    )

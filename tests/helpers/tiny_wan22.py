"""Tiny Wan 2.2 bases with random weights, in diffusers' layout, and presets of their sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from omegaconf import OmegaConf

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.common import config as config_module
from fantasytalking.common.config import load_config
from fantasytalking.models.experts import Expert
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.training.config import TrainConfig
from tests.helpers.tiny_components import TEXT_DIM, build_components, tiny_vae
from tests.helpers.tiny_transformer import randomize_zero_init
from tests.training.tiny_corpus import AUDIO_DIM, config_overrides

PORTRAIT_SIZES: dict[str, Any] = {
    "audio_dim": AUDIO_DIM,
    "audio_token_dim": 24,
    "audio_positions": 17,
    "face_tokens": 3,
    "face_token_dim": 24,
    "face_width": 16,
    "face_depth": 1,
    "face_heads": 2,
    "motion_width": 16,
}
"""The paper's modules in the tiny presets."""
CHANNELS_5B = 8
Adapters = dict[Expert, Path]
"""Adapter folder by expert."""
WAN: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "image_dim": None,
}
WAN_A14B = WAN | {"in_channels": 36, "out_channels": 16}
BOUNDARY = 0.9
WAN_5B = WAN | {"in_channels": CHANNELS_5B, "out_channels": CHANNELS_5B}


def tiny_vae_5b() -> AutoencoderKLWan:
    """The kind of Wan2.2-TI2V-5B's VAE: residual, patches of 2, strides 16 and 4."""
    torch.manual_seed(5)
    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=8,
        z_dim=CHANNELS_5B,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        latents_mean=[0.1 * number for number in range(CHANNELS_5B)],
        latents_std=[0.5 + 0.1 * number for number in range(CHANNELS_5B)],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )


def tiny_vae_other_strides() -> AutoencoderKLWan:
    """A VAE of no published base: strides 4 and 2."""
    torch.manual_seed(6)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=8,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 8,
        latents_std=[1.0] * 8,
        scale_factor_spatial=4,
        scale_factor_temporal=2,
    )


def save_components(folder: Path, vae: AutoencoderKLWan, pipeline: dict[str, Any]) -> Path:
    """Everything but transformers, without CLIP, and the model_index.json."""
    build_components(folder, AUDIO_DIM)
    for name in ("image_encoder", "image_processor", "vae"):
        shutil.rmtree(folder / name)
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps(pipeline))
    return folder


def save_5b(folder: Path) -> Path:
    """A base of the kind of Wan2.2-TI2V-5B."""
    save_components(folder, tiny_vae_5b(), {"_class_name": "WanPipeline", "expand_timesteps": True})
    save_transformer(folder / "transformer", 7, WAN_5B)
    return folder


def save_a14b(folder: Path) -> Path:
    """A base of the kind of Wan2.2-I2V-A14B: two experts."""
    save_components(folder, tiny_vae(), {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": BOUNDARY})
    for seed, name in ((8, "transformer"), (9, "transformer_2")):
        save_transformer(folder / name, seed, WAN_A14B)
    return folder


def save_adapters(base: Path, folder: Path, std: float = 0.3) -> Adapters:
    """Writes an adapter for each expert; with `std` 0 they add nothing."""
    for seed, expert in enumerate(Expert):
        torch.manual_seed(seed)
        model = load_from_wan(base, PORTRAIT_SIZES, subfolder=expert.component)
        if std:
            randomize_zero_init(model, std)
        config = AdapterConfig(["audio", "face", "motion"], "seconds", expert=expert.value)
        save_adapter(model, folder / expert.value, config)
    return {expert: folder / expert.value for expert in Expert}


def load_a14b(base: Path, adapters: Adapters) -> FantasyTalkingPipeline:
    """The pipeline of a base with two experts."""
    pipe = FantasyTalkingPipeline.from_base(
        base, adapters[Expert.high], adapter_2=adapters[Expert.low], module_config=PORTRAIT_SIZES, text_length=8
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_transformer(folder: Path, seed: int, sizes: dict[str, Any]) -> None:
    torch.manual_seed(seed)
    WanTransformer3DModel(**sizes).save_pretrained(folder)


def copy_preset(configs: Path, source: str, name: str) -> Path:
    """Copies a preset's folder of configs under another name, which replaces the old one in every file."""
    folder = configs / name
    shutil.copytree(configs / source, folder)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(source, name))
    return folder


def add_preset(configs: Path, name: str, base: Path, wan: dict[str, Any], **model: Any) -> None:
    """Adds a preset of a tiny base; `model` has further entries of its model.yaml."""
    values = {"base": str(base), "wan": wan, "portrait": PORTRAIT_SIZES, **model}
    OmegaConf.save(OmegaConf.create(values), copy_preset(configs, "wan1.3b", name) / "model.yaml")


def use_configs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Copies the presets to `folder`, where tests can add their own, and uses them there."""
    shutil.copytree(config_module.CONFIGS_FOLDER, folder)
    monkeypatch.setattr(config_module, "CONFIGS_FOLDER", folder)
    return folder


def train_config(preset: str, output: Path, corpus: Path, base: Path, **changes: Any) -> TrainConfig:
    """A training configuration of a preset, with the changes of `config_overrides`."""
    return load_config(TrainConfig, None, config_overrides(output, corpus, base, **{"model": preset, **changes}))

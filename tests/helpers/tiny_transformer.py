"""Tiny real transformers and conditions, seeded."""

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fantasytalking.conditions import Conditions
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

BASE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 20,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 3,
    "image_dim": 28,
    "added_kv_proj_dim": 48,
}
PORTRAIT: dict[str, Any] = {
    "audio_dim": 12,
    "audio_token_dim": 40,
    "face_dim": 32,
    "face_tokens": 3,
    "face_token_dim": 24,
    "face_width": 16,
    "face_depth": 1,
    "face_heads": 2,
    "motion_width": 16,
}


def save_base(folder: Path, **changes: Any) -> Path:
    """A tiny Wan base with random weights, saved as diffusers does."""
    torch.manual_seed(0)
    WanTransformer3DModel(**{**BASE, **changes}).save_pretrained(folder)
    return folder


def tiny_transformer(seed: int = 0, trained: bool = True, **changes: Any) -> FantasyTalkingTransformer3DModel:
    """A tiny model; `trained` sets zero-initialized parameters to random values."""
    torch.manual_seed(seed)
    model = FantasyTalkingTransformer3DModel(**{**BASE, **PORTRAIT, **changes}).eval()
    if trained:
        randomize_zero_init(model, 0.3)
    return model


def randomize_zero_init(model: FantasyTalkingTransformer3DModel, std: float) -> None:
    """Sets zero-initialized parameters to random values, so that audio, face and motion have an effect."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("audio_v_proj.weight", "face_v_proj.weight")) or name.startswith("motion_embedder.o"):
                parameter.normal_(std=std)


def tiny_conditions(
    batch: int = 2, frames: int = 5, windows: int | None = None, tokens: int = 7, seed: int = 1, size: int = 8
) -> Conditions:
    """Random conditions; the first and last windows contain padding, as in a real clip."""
    generator = torch.Generator().manual_seed(seed)
    windows = frames if windows is None else windows

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(batch, windows, tokens, dtype=torch.bool)
    mask[:, 0, 3:] = False
    mask[:, -1, 5:] = False
    return Conditions(
        prompt_embeds=random(batch, 9, BASE["text_dim"]),
        image_embeds=random(batch, 6, BASE["image_dim"]),
        image_latents=random(batch, 20, frames, size, size),
        audio_embeds=random(batch, windows, tokens, PORTRAIT["audio_dim"]),
        audio_mask=mask,
        face_embeds=random(batch, 1, PORTRAIT["face_dim"]),
        motion_intensity=torch.rand(batch, 2, generator=generator),
        condition_scale=torch.ones(batch, 2),
    )


def tiny_latents(batch: int = 2, frames: int = 5, seed: int = 2, size: int = 8) -> tuple[Tensor, Tensor]:
    """Noisy latents (B, 16, F, size, size) and timesteps (B,)."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 16, frames, size, size, generator=generator)
    return latents, torch.rand(batch, generator=generator) * 1000

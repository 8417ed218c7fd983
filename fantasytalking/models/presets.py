"""Model presets as data: configs/<preset>/model.yaml."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from omegaconf import MISSING

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.models.expression_config import check_expression_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

MODEL_PRESETS = ("nano", "wan1.3b", "wan14b")


@dataclass
class WanConfig:
    """Shape of the Wan base; the names are those of diffusers' WanTransformer3DModel."""

    num_attention_heads: int = MISSING
    attention_head_dim: int = MISSING
    ffn_dim: int = MISSING
    num_layers: int = MISSING
    in_channels: int = 36
    out_channels: int = 16
    text_dim: int = 4096
    image_dim: int | None = 1280
    freq_dim: int = 256

    def validate(self) -> None:
        """Sizes are positive and the heads can be rotated in three axes."""
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise InputError(f"wan.{name} is {value}; it must be at least 1")
        if self.attention_head_dim % 2 or self.attention_head_dim < 6:
            raise InputError(f"wan.attention_head_dim is {self.attention_head_dim}; it must be even and at least 6")


@dataclass
class PortraitConfig:
    """Size of the paper's modules; the names are those of FantasyTalkingTransformer3DModel."""

    audio_dim: int = 768
    audio_token_dim: int = 2048
    audio_positions: int = 0
    """Tokens in a frame-level window whose places are told apart (17 in 0.34 s); 0 = none are, as released."""
    audio_scale: float = 1.0
    face_dim: int = 512
    face_tokens: int = 16
    face_token_dim: int = 2048
    face_width: int = 1024
    face_depth: int = 4
    face_heads: int = 16
    face_scale: float = 0.5
    motion_width: int = 256
    expression_dims: list[int] | None = None
    """None = no expression condition; [6, 6, 30, 512] for the released front end."""
    expression_learned: list[int] = field(default_factory=lambda: [0, 0, 4, 16])
    """Learned tokens of head, eye, emotion and mouth; [0, 0, 0, 0] and [4, 4, 4, 16] are the ablation's other rows."""
    expression_token_dim: int = 2048
    expression_width: int = 1280
    expression_depth: int = 4
    expression_heads: int = 20
    expression_head_dim: int = 64
    expression_plain_width: int = 0
    expression_positions: int = 0
    """Inner width of the plain projections; 0 = one linear layer each, as released."""
    expression_scale: float = 1.0
    expression_padding: str = "masked"

    def validate(self) -> None:
        """Widths divide as the modules need."""
        if self.face_width % self.face_heads:
            raise InputError(f"portrait.face_width {self.face_width} is not a multiple of {self.face_heads} face_heads")
        if self.motion_width % 8:
            raise InputError(f"portrait.motion_width is {self.motion_width}; it must be a multiple of 8")
        check_expression_config(asdict(self), "portrait")


@dataclass
class ModelConfig:
    """A base and the modules on it."""

    base: str = MISSING
    """Hub id or folder of the base pipeline (diffusers layout)."""
    wan: WanConfig = field(default_factory=WanConfig)
    portrait: PortraitConfig = field(default_factory=PortraitConfig)


def load_model_config(preset: str) -> ModelConfig:
    """The model of a preset.

    Raises:
        InputError: there is no such preset.
    """
    return load_config(ModelConfig, preset_path(preset, "model"))


def transformer_kwargs(config: ModelConfig) -> dict[str, Any]:
    """Constructor arguments of the transformer."""
    wan = asdict(config.wan)
    if wan["image_dim"] is not None:
        wan["added_kv_proj_dim"] = wan["num_attention_heads"] * wan["attention_head_dim"]
    else:
        wan["added_kv_proj_dim"] = None
    return {**wan, **asdict(config.portrait)}


def build_meta_transformer(config: ModelConfig) -> FantasyTalkingTransformer3DModel:
    """The transformer without memory for its weights, to count and plan with."""
    with torch.device("meta"):
        return FantasyTalkingTransformer3DModel(**transformer_kwargs(config))

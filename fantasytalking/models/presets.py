"""Loads model presets, configs/<preset>/model.yaml, and builds their transformers."""

import copy
import functools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fantasytalking.common.config import load_config, preset_path, presets_with
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.resources import resource_path
from fantasytalking.common.validation import check_range
from fantasytalking.latent_geometry import WAN21_GEOMETRY, LatentGeometry
from fantasytalking.models.experts import check_boundary_ratio
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.models.meta_building import on_meta
from fantasytalking.models.portrait_config import PortraitConfig
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


@dataclass
class WanConfig:
    """Sizes of the Wan base, under the names of diffusers' WanTransformer3DModel."""

    num_attention_heads: int = MISSING
    attention_head_dim: int = MISSING
    ffn_dim: int = MISSING
    num_layers: int = MISSING
    in_channels: int = 36
    out_channels: int = 16
    text_dim: int = 4096
    image_dim: int | None = 1280
    freq_dim: int = 256
    patch_size: list[int] = field(default_factory=lambda: [1, 2, 2])
    """Latent frames, rows and columns of a video token."""

    def validate(self) -> None:
        """Validates that sizes are positive and that the heads can be rotated in three axes.

        Raises:
            InputError: names the key, its value and the limit.
        """
        sizes = {name: value for name, value in asdict(self).items() if name != "patch_size"}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise InputError(
                    f"wan.{name} is {value}; it must be at least 1",
                    code=ErrorCode.out_of_range,
                    field=f"wan.{name}",
                    value=value,
                )
        if self.attention_head_dim % 2 or self.attention_head_dim < 6:
            raise InputError(
                f"wan.attention_head_dim is {self.attention_head_dim}; it must be even and at least 6",
                code=ErrorCode.out_of_range,
                field="wan.attention_head_dim",
                value=self.attention_head_dim,
            )


@dataclass
class VaeConfig:
    """Strides of the base's VAE, under the names of diffusers' AutoencoderKLWan."""

    scale_factor_spatial: int = WAN21_GEOMETRY.spatial_stride
    scale_factor_temporal: int = WAN21_GEOMETRY.temporal_stride

    def validate(self) -> None:
        """Validates the strides.

        Raises:
            InputError: a stride is outside 1 to 64.
        """
        for name, value in asdict(self).items():
            check_range(f"vae.{name}", value, 1, 64)


@dataclass
class ModelConfig:
    """A Wan base and the paper's modules on it."""

    base: str = MISSING
    """Hub ID or folder of the base pipeline in diffusers' layout."""
    boundary_ratio: float | None = None
    """Noise level, in (0, 1), that divides the two experts of the base; None: it has one transformer."""
    vae: VaeConfig = field(default_factory=VaeConfig)
    wan: WanConfig = field(default_factory=WanConfig)
    portrait: PortraitConfig = field(default_factory=PortraitConfig)

    def validate(self) -> None:
        """Validates the boundary, and that the patches are of one latent frame and square.

        Raises:
            InputError: the boundary is not between 0 and 1, or the patches are not supported.
        """
        _ = self.geometry
        if self.boundary_ratio is not None:
            check_boundary_ratio(self.boundary_ratio, "model.yaml")

    @property
    def image_conditioning(self) -> ImageConditioning:
        """How the base receives the first frame."""
        return ImageConditioning.from_channels(self.wan.in_channels, self.wan.out_channels)

    @property
    def geometry(self) -> LatentGeometry:
        """Strides and patch, as the base's own configurations state them."""
        return LatentGeometry.from_configs(asdict(self.vae), asdict(self.wan))


def model_presets() -> list[str]:
    """Returns the names of all presets: the folders of configs that have a model.yaml."""
    return presets_with("model")


def load_model_config(preset: str) -> ModelConfig:
    """Loads the model configuration of a preset.

    Args:
        preset: its name, or the path of another file like configs/nano/model.yaml.

    Raises:
        InputError: the preset or the file does not exist.
    """
    is_file = preset.endswith((".yaml", ".yml"))
    path = existing_file(resource_path(preset), "model") if is_file else preset_path(preset, "model")
    return copy.deepcopy(_read_model_config(path, path.stat().st_mtime_ns))


@functools.cache
def _read_model_config(path: Path, modified_ns: int) -> ModelConfig:
    """Many rooms ask for the same preset, and a configuration takes OmegaConf tens of milliseconds."""
    return load_config(ModelConfig, path)


def transformer_kwargs(config: ModelConfig) -> dict[str, Any]:
    """Returns the constructor arguments of the transformer."""
    wan = asdict(config.wan) | {"patch_size": tuple(config.wan.patch_size)}
    if wan["image_dim"] is not None:
        wan["added_kv_proj_dim"] = wan["num_attention_heads"] * wan["attention_head_dim"]
    else:
        wan["added_kv_proj_dim"] = None
    return {**wan, **asdict(config.portrait)}


def build_meta_transformer(config: ModelConfig) -> FantasyTalkingTransformer3DModel:
    """Builds the transformer on the meta device, without memory for its weights."""
    with on_meta():
        return FantasyTalkingTransformer3DModel(**transformer_kwargs(config))

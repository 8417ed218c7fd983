"""Chosen savings: faster or smaller at a price, all of them off by default.

What each costs in quality must be measured on the model at hand; none of them is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from torch import nn

from fantasytalking.checkpoints.few_step_lora import fuse_few_step_lora
from fantasytalking.common.errors import InputError, install_command
from fantasytalking.models.cpu.attention import use_float32_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.cpu.memory import retain_freed_memory
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

GPU_RESIDENT_COMPONENTS = ("vae", "audio_encoder")
"""Parts that stay on the GPU when groups are offloaded."""
ACTIVATION_MEMORY_FRACTION = 0.4
"""Of the memory, for what is computed; an estimate from 81 frames of 512 px on the 14B model, not measured."""


class StepCache(Enum):
    """What a step may take over from an earlier one; each guidance branch remembers its own."""

    none = "none"
    first_block = "first_block"
    """All blocks but the first are left out while its change from step to step is small."""
    mag_cache = "mag_cache"
    """Steps are left out by ratios of magnitudes that were measured for a model (arXiv 2506.09045)."""
    taylor_seer = "taylor_seer"
    """Between full steps, attentions and feed-forwards are continued as a series (arXiv 2503.06923)."""


class WeightQuantization(Enum):
    """How the linear layers of the blocks are stored, by torchao; products are made in the model's precision."""

    none = "full"
    int8 = "int8"
    float8 = "float8"


@dataclass
class OptimizationConfig:
    """What is saved, for a price."""

    step_cache: StepCache = StepCache.none
    cache_threshold: float = 0.08
    """first_block, mag_cache: how much may be passed over; more = faster and less true."""
    mag_ratios: list[float] = field(default_factory=list)
    """mag_cache: one a step, of this model (diffusers' MagCache prints them when it calibrates)."""
    cache_interval: int = 3
    """taylor_seer: one full step in so many."""
    quantization: WeightQuantization = WeightQuantization.none
    few_step_lora: str | None = None
    """A few-step LoRA for the Wan base (.safetensors), fused into it; set steps, shift and guidance as its page
    says."""
    few_step_lora_scale: float = 1.0
    vram_limit_gib: float | None = None
    """GPU memory that may be used, in GiB: the least offloading that fits is chosen, in the place of `offload`."""

    def validate(self) -> None:
        """Holds every value in its limits.

        Raises:
            InputError: naming the value, the limit and the cure.
        """
        limits = {"threshold": (0.0, 10.0), "interval": (2, 100), "lora_scale": (-4.0, 4.0)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"savings.{name} is {value}; it must be {low:g} to {high:g}")
        if self.vram_limit_gib is not None and not 1 <= self.vram_limit_gib <= 1024:
            raise InputError(f"optimizations.vram_limit_gib is {self.vram_limit_gib}; it must be 1 to 1024")
        if self.step_cache is StepCache.mag_cache and not self.mag_ratios:
            raise InputError(
                "optimizations.step_cache is mag_cache, which needs optimizations.mag_ratios of this model; give them"
            )
        if self.few_step_lora is not None and not self.few_step_lora.endswith(".safetensors"):
            raise InputError(f"optimizations.few_step_lora is '{self.few_step_lora}'; a .safetensors file is needed")
        if self.quantization is not WeightQuantization.none and find_spec("torchao") is None:
            raise InputError(
                f"optimizations.quantization is {self.quantization.value}, which needs torchao: "
                f"{install_command('quantization')}"
            )


def apply_optimizations(
    transformer: FantasyTalkingTransformer3DModel, config: OptimizationConfig, device: torch.device
) -> None:
    """Changes the transformer as `config` says; and lets one on a CPU work as is fastest there.

    Raises:
        InputError: the LoRA does not fit.
    """
    if config.few_step_lora is not None:
        fuse_few_step_lora(transformer, Path(config.few_step_lora), config.few_step_lora_scale)
    if config.quantization is not WeightQuantization.none:
        quantize_blocks(transformer, config.quantization)
    if device.type == "cpu":  # before step caches, whose hooks wrap the blocks
        retain_freed_memory()
        fuse_blocks(transformer)
        if transformer.dtype is torch.bfloat16:
            use_float32_attention(transformer)
    if config.step_cache is not StepCache.none:
        transformer.enable_cache(_step_cache_config(config))


def choose_offload(component_bytes: Mapping[str, int], vram_limit_gib: float) -> str:
    """none, model or group: the least offloading that leaves `ACTIVATION_MEMORY_FRACTION` of the limit free of parts
    (bytes).

    Raises:
        InputError: even what always stays on the GPU does not fit.
    """
    room = vram_limit_gib * 2**30 * (1 - ACTIVATION_MEMORY_FRACTION)
    staying = sum(component_bytes.get(name, 0) for name in GPU_RESIDENT_COMPONENTS)
    if sum(component_bytes.values()) <= room:
        return "none"
    if max(component_bytes.values()) <= room:
        return "model"
    if staying <= room:
        return "group"
    raise InputError(
        f"optimizations.vram_limit_gib is {vram_limit_gib:g}; {', '.join(GPU_RESIDENT_COMPONENTS)} alone need "
        f"{staying / 2**30 / (1 - ACTIVATION_MEMORY_FRACTION):.1f} GiB; give more"
    )


def quantize_blocks(transformer: FantasyTalkingTransformer3DModel, quantization: WeightQuantization) -> None:
    """Stores the weights of the blocks' wide linear layers in one byte each, with a scale for every output."""
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    kind = Int8WeightOnlyConfig() if quantization is WeightQuantization.int8 else Float8WeightOnlyConfig()
    quantize_(transformer.blocks, kind, filter_fn=lambda module, name: isinstance(module, nn.Linear))


def _step_cache_config(config: OptimizationConfig) -> Any:
    if config.step_cache is StepCache.first_block:
        return FirstBlockCacheConfig(threshold=config.cache_threshold)
    if config.step_cache is StepCache.taylor_seer:
        return TaylorSeerCacheConfig(cache_interval=config.cache_interval)
    ratios = config.mag_ratios
    return MagCacheConfig(threshold=config.cache_threshold, num_inference_steps=len(ratios), mag_ratios=ratios)

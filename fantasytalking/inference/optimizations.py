"""Optional optimizations of speed and memory, off by default.

None of them is exact; measure what each costs in quality on the model in use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from omegaconf import MISSING
from torch import nn

from fantasytalking.checkpoints.lora_fusion import fuse_lora_file
from fantasytalking.common.errors import ErrorCode, InputError, install_command
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.validation import check_ranges
from fantasytalking.models.cpu.attention import use_float32_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.cpu.memory import retain_freed_memory
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

GPU_RESIDENT_COMPONENTS = ("vae", "audio_encoder")
"""Components that stay on the GPU with group offloading."""
ACTIVATION_MEMORY_FRACTION = 0.4
"""Fraction of the memory for activations: estimated for 81 frames of 512 px on the 14B model, not measured."""


class StepCache(Enum):
    """What a step may reuse from an earlier step of the same guidance branch."""

    none = "none"
    first_block = "first_block"
    """Skips all blocks but the first while the first block changes little from step to step."""
    mag_cache = "mag_cache"
    """Skips steps by magnitude ratios that were measured for the model (arXiv 2506.09045)."""
    taylor_seer = "taylor_seer"
    """Extrapolates attention and feed-forward outputs between full steps as a Taylor series (arXiv 2503.06923)."""


class WeightQuantization(Enum):
    """Storage of the blocks' linear layers (torchao); matrix products run in the model's dtype."""

    none = "none"
    int8 = "int8"
    float8 = "float8"


@dataclass
class LoraFile:
    """A LoRA that is fused into the Wan base."""

    path: str = MISSING
    """.safetensors file."""
    scale: float = 1.0
    """Scale of its changes, -4 to 4."""


@dataclass
class OptimizationConfig:
    """Optimizations of speed and memory, each at the cost of quality or time."""

    step_cache: StepCache = StepCache.none
    cache_threshold: float = 0.08
    """Change below which a step is reused, in [0, 10] (first_block, mag_cache); higher: faster and less exact."""
    mag_ratios: list[float] = field(default_factory=list)
    """One ratio per step, measured on this model (mag_cache; diffusers' MagCache prints them when it calibrates)."""
    cache_interval: int = 3
    """Steps from one full step to the next, 2 to 100 (taylor_seer)."""
    quantization: WeightQuantization = WeightQuantization.none
    few_step_lora: str | None = None
    """A few-step LoRA (.safetensors), fused into the Wan base; set steps, flow shift and guidance as its page
    recommends."""
    few_step_lora_scale: float = 1.0
    """Scale of that LoRA, -4 to 4."""
    loras: list[LoraFile] = field(default_factory=list)
    """Further LoRAs of the Wan base, fused in this order, each with its scale."""
    vram_limit_gib: float | None = None
    """GPU memory that may be used, 1 to 1024 GiB; selects the least offloading that fits, in place of `offload`."""

    def validate(self) -> None:
        """Validates every value.

        Raises:
            InputError: a value is outside its range, or something it needs is missing.
        """
        limits = {
            "cache_threshold": (0.0, 10.0),
            "cache_interval": (2, 100),
            "few_step_lora_scale": (-4.0, 4.0),
            "vram_limit_gib": (1, 1024),
        }
        check_ranges(self, limits, "optimizations.")
        if self.step_cache is StepCache.mag_cache and not self.mag_ratios:
            raise InputError(
                "optimizations.step_cache is mag_cache, which needs optimizations.mag_ratios of this model; give them",
                code=ErrorCode.missing_value,
                field="optimizations.mag_ratios",
            )
        for name, file in self.lora_files().items():
            check_ranges(file, {"scale": (-4.0, 4.0)}, f"{name}.")
            if not file.path.endswith(".safetensors"):
                raise InputError(
                    f"{name} is '{file.path}'; a .safetensors file is needed",
                    code=ErrorCode.invalid_choice,
                    field=name,
                    value=file.path,
                )
        if self.quantization is not WeightQuantization.none and find_spec("torchao") is None:
            raise InputError(
                f"optimizations.quantization is {self.quantization.value}, which needs torchao: "
                f"{install_command('quantization')}",
                code=ErrorCode.unsupported,
                field="optimizations.quantization",
                value=self.quantization.value,
            )

    def lora_files(self) -> dict[str, LoraFile]:
        """Returns all LoRAs in the order in which they are fused, by their setting."""
        first = {"optimizations.few_step_lora": self.few_step_lora}
        files = {name: LoraFile(path, self.few_step_lora_scale) for name, path in first.items() if path is not None}
        return files | {f"optimizations.loras[{number}]": file for number, file in enumerate(self.loras)}


def apply_optimizations(
    transformer: FantasyTalkingTransformer3DModel, config: OptimizationConfig, device: torch.device
) -> None:
    """Applies `config` to the transformer, and on a CPU the faster attention and memory reuse.

    Raises:
        InputError: a LoRA does not fit.
    """
    for file in config.lora_files().values():
        fuse_lora_file(transformer, Path(resolve_local(file.path)), file.scale)
    if config.quantization is not WeightQuantization.none:
        quantize_blocks(transformer, config.quantization)
    if device.type == "cpu":  # before step caches, whose hooks wrap the blocks
        retain_freed_memory()
        fuse_blocks(transformer)
        if transformer.dtype is torch.bfloat16:
            use_float32_attention(transformer)
    if config.step_cache is not StepCache.none:
        transformer.enable_cache(_step_cache_config(config))


def component_bytes(components: Mapping[str, Any]) -> dict[str, int]:
    """Returns the size in bytes of the weights of each component."""
    modules = {name: component for name, component in components.items() if isinstance(component, nn.Module)}
    return {name: sum(value.nbytes for value in module.parameters()) for name, module in modules.items()}


def choose_offload(sizes: Mapping[str, int], vram_limit_gib: float) -> str:
    """Returns none, model or group: the least offloading that leaves `ACTIVATION_MEMORY_FRACTION` of the limit free.

    Args:
        sizes: bytes of the weights by component.

    Raises:
        InputError: even the components that always stay on the GPU do not fit.
    """
    budget = vram_limit_gib * 2**30 * (1 - ACTIVATION_MEMORY_FRACTION)
    resident = sum(sizes.get(name, 0) for name in GPU_RESIDENT_COMPONENTS)
    if sum(sizes.values()) <= budget:
        return "none"
    if max(sizes.values()) <= budget:
        return "model"
    if resident <= budget:
        return "group"
    raise InputError(
        f"optimizations.vram_limit_gib is {vram_limit_gib:g}; {', '.join(GPU_RESIDENT_COMPONENTS)} alone need "
        f"{resident / 2**30 / (1 - ACTIVATION_MEMORY_FRACTION):.1f} GiB; give more",
        code=ErrorCode.insufficient_resources,
        field="optimizations.vram_limit_gib",
        value=vram_limit_gib,
    )


def quantize_blocks(transformer: FantasyTalkingTransformer3DModel, quantization: WeightQuantization) -> None:
    """Stores the weights of the blocks' linear layers in one byte each, with one scale per output channel."""
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

"""Optional optimizations of speed and memory, off by default.

None of them is exact; measure what each costs in quality on the model in use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from omegaconf import MISSING
from torch import nn

from fantasytalking.checkpoints.lora_adapter import ScaledLora, apply_lora_files
from fantasytalking.common.errors import ErrorCode, InputError, install_command
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.validation import check_ranges
from fantasytalking.models.cpu.attention import use_float32_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.experts import Expert, Experts
from fantasytalking.models.lora_schedule import StepStrength
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


class TextEncoderDevice(Enum):
    """Where prompts are encoded."""

    auto = "auto"
    """On the device that generates."""
    cpu = "cpu"
    """On the CPU: slower, and the text encoder takes no memory on the device."""


class WeightQuantization(Enum):
    """Storage of linear layers; matrix products run in the model's dtype."""

    none = "none"
    int8 = "int8"
    """The blocks' layers, quantized once they are loaded (torchao)."""
    float8 = "float8"
    """The same in float8."""
    stored = "stored"
    """As the files of transformer and text encoder store them: in GGUF blocks, float8 or int8 with scales."""


@dataclass
class LoraFile:
    """A LoRA of the Wan base, fused into it where its strength is the same at every step."""

    path: str = MISSING
    """.safetensors file."""
    scale: float = 1.0
    """Scale of its changes, -4 to 4."""
    expert: Expert | None = None
    """Transformer of a base with two that it changes; null: every transformer."""
    strength: list[float] = field(default_factory=list)
    """Factors of the scale, -4 to 4, one per step; empty: 1 from `start` to `stop`, and 0 elsewhere."""
    start: float = 0.0
    """Fraction of the steps from which on it is applied, 0 to 1."""
    stop: float = 1.0
    """Fraction of the steps up to which it is applied, 0 to 1."""

    def step_strength(self) -> StepStrength:
        """Returns the factor of the scale by step."""
        return StepStrength(tuple(self.strength), self.start, self.stop)

    def check(self, name: str) -> None:
        """Validates what is applied when.

        Args:
            name: of the file in the configuration.

        Raises:
            InputError: a value is outside its range, or two exclude each other.
        """
        check_ranges(self, {"scale": (-4.0, 4.0), "start": (0.0, 1.0), "stop": (0.0, 1.0)}, f"{name}.")
        wrong = [factor for factor in self.strength if not -4 <= factor <= 4]
        if wrong:
            raise InputError(
                f"{name}.strength has {wrong[0]}; numbers from -4 to 4 are needed, one per step",
                code=ErrorCode.out_of_range,
                field=f"{name}.strength",
                value=wrong[0],
            )
        if self.start >= self.stop or (self.strength and (self.start, self.stop) != (0, 1)):
            raise InputError(
                f"{name}.start is {self.start:g} and stop {self.stop:g}; start must be below stop, and strength "
                "excludes both",
                code=ErrorCode.conflict,
                field=f"{name}.start",
                value=self.start,
            )


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
    few_step_lora_2: str | None = None
    """The same for the low-noise expert of a base with two; `few_step_lora` is then that of the high-noise one."""
    few_step_lora_scale: float = 1.0
    """Scale of these LoRAs, -4 to 4."""
    loras: list[LoraFile] = field(default_factory=list)
    """Further LoRAs of the Wan base, fused in this order, each with its scale."""
    vram_limit_gib: float | None = None
    """GPU memory that may be used, 1 to 1024 GiB; selects the least offloading that fits, in place of `offload`."""
    offload_blocks: int | None = None
    """Blocks of the transformer that wait and move together with offload=group, 1 to 100; null: single layers, which
    take the least memory on the device."""
    offload_prefetch: bool = True
    """Copies the next group while one computes, with offload=group. All weights are then pinned in main memory."""
    text_encoder_device: TextEncoderDevice = TextEncoderDevice.auto
    vae_tiling: bool = False
    """The VAE works on overlapping tiles of 256 pixels (diffusers). The result differs slightly, since a tile sees no
    other; the frames of the whole video are held at once, so that `stream` is rejected."""

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
            "offload_blocks": (1, 100),
        }
        check_ranges(self, limits, "optimizations.")
        if self.offload_prefetch and (self.offload_blocks or 1) > 1:
            raise InputError(
                f"optimizations.offload_blocks is {self.offload_blocks}, but blocks are prefetched one at a time; set "
                "offload_blocks=1, or offload_prefetch=false",
                code=ErrorCode.conflict,
                field="optimizations.offload_blocks",
                value=self.offload_blocks,
            )
        if self.step_cache is StepCache.mag_cache and not self.mag_ratios:
            raise InputError(
                "optimizations.step_cache is mag_cache, which needs optimizations.mag_ratios of this model; give them",
                code=ErrorCode.missing_value,
                field="optimizations.mag_ratios",
            )
        settings = {"lora": "few_step_lora", "lora_2": "few_step_lora_2"}
        for name, file in self.lora_files().items():
            name = f"optimizations.{settings.get(name, name)}"
            file.check(name)
            if not file.path.endswith(".safetensors"):
                raise InputError(
                    f"{name} is '{file.path}'; a .safetensors file is needed",
                    code=ErrorCode.invalid_choice,
                    field=name,
                    value=file.path,
                )
        needs_torchao = self.quantization in (WeightQuantization.int8, WeightQuantization.float8)
        if needs_torchao and find_spec("torchao") is None:
            raise InputError(
                f"optimizations.quantization is {self.quantization.value}, which needs torchao: "
                f"{install_command('quantization')}",
                code=ErrorCode.unsupported,
                field="optimizations.quantization",
                value=self.quantization.value,
            )

    def lora_files(self) -> dict[str, LoraFile]:
        """Returns all LoRAs in the order in which they are fused, by the names that records use."""
        few_step = {"lora": (self.few_step_lora, Expert.high), "lora_2": (self.few_step_lora_2, Expert.low)}
        files = {
            name: LoraFile(path, self.few_step_lora_scale, expert)
            for name, (path, expert) in few_step.items()
            if path is not None
        }
        return files | {f"loras[{number}]": file for number, file in enumerate(self.loras)}

    def check_experts(self, has_experts: bool) -> None:
        """Checks that the optimizations suit the number of transformers.

        Raises:
            InputError: each expert would need its own LoRA, or a step cache counts the steps of one transformer.
        """
        if (self.few_step_lora_2 is not None) != (has_experts and self.few_step_lora is not None):
            needed = "two experts: give the LoRA of each" if has_experts else "one transformer: leave it out"
            raise InputError(
                f"optimizations.few_step_lora is {self.few_step_lora!r} and few_step_lora_2 {self.few_step_lora_2!r}; "
                f"this base has {needed}",
                code=ErrorCode.conflict,
                field="optimizations.few_step_lora_2",
                value=self.few_step_lora_2,
            )
        named = [f"optimizations.loras[{number}]" for number, file in enumerate(self.loras) if file.expert is not None]
        if named and not has_experts:
            raise InputError(
                f"{named[0]}.expert is set, but this base has one transformer; leave it out",
                code=ErrorCode.conflict,
                field=f"{named[0]}.expert",
            )
        if has_experts and self.step_cache is StepCache.mag_cache:
            raise InputError(
                "optimizations.step_cache is mag_cache, whose ratios are those of one transformer, but this base has "
                "two experts; use first_block or taylor_seer",
                code=ErrorCode.unsupported,
                field="optimizations.step_cache",
                value=self.step_cache.value,
            )


def apply_optimizations(experts: Experts, config: OptimizationConfig, device: torch.device) -> None:
    """Applies `config` to the transformers, and on a CPU the faster attention.

    Raises:
        InputError: a LoRA does not fit, or as `OptimizationConfig.check_experts`.
    """
    config.check_experts(experts.low is not None)
    for expert, transformer in experts.items():
        files = [file for file in config.lora_files().values() if file.expert in (None, expert)]
        _optimize_transformer(transformer, files, config, device)


def _optimize_transformer(
    transformer: FantasyTalkingTransformer3DModel,
    loras: Sequence[LoraFile],
    config: OptimizationConfig,
    device: torch.device,
) -> None:
    apply_lora_files(
        transformer, [ScaledLora(Path(resolve_local(file.path)), file.scale, file.step_strength()) for file in loras]
    )
    if config.quantization in (WeightQuantization.int8, WeightQuantization.float8):
        quantize_blocks(transformer, config.quantization)
    if device.type == "cpu":  # before step caches, whose hooks wrap the blocks
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

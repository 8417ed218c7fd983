"""Places the components of a pipeline: all on the device, or some of them in main memory until they are used."""

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.optimizations import (
    GPU_RESIDENT_COMPONENTS,
    OptimizationConfig,
    TextEncoderDevice,
    choose_offload,
    component_bytes,
)
from fantasytalking.models.experts import Expert
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


def place_pipeline(pipe: FantasyTalkingPipeline, config: InferConfig, device: torch.device) -> None:
    """Moves the components to the device as configured.

    Raises:
        InputError: the components that always stay on the device do not fit `optimizations.vram_limit_gib`.
    """
    pipe.text_encoder_on_cpu = config.optimizations.text_encoder_device is TextEncoderDevice.cpu
    sizes = component_bytes(pipe.components)
    if pipe.text_encoder_on_cpu:
        sizes.pop("text_encoder", None)
    offload = _resolve_offload(config, sizes)
    if offload is Offload.model:
        pipe.enable_model_cpu_offload(device=device)
    elif offload is Offload.none:
        pipe.to(device)
    else:
        _offload_groups(pipe, config.optimizations, device)


def place_text_encoder(encoder: nn.Module, config: InferConfig, device: torch.device) -> None:
    """Moves a text encoder that is alone in memory to where it computes: as a whole, unless it must be in groups."""
    if config.optimizations.text_encoder_device is TextEncoderDevice.cpu:
        return
    if _resolve_offload(config, component_bytes({"text_encoder": encoder})) is Offload.group:
        _offload_layers(encoder, config.optimizations, device)
    else:
        encoder.to(device)


def _resolve_offload(config: InferConfig, sizes: dict[str, int]) -> Offload:
    limit = config.optimizations.vram_limit_gib
    return config.offload if limit is None else Offload(choose_offload(sizes, limit))


def _offload_groups(pipe: FantasyTalkingPipeline, optimizations: OptimizationConfig, device: torch.device) -> None:
    """Transformers by blocks or layers, other components by layers; parts of the VAE and the audio encoder are called,
    which the hooks of offloading do not see."""
    experts = {expert.component for expert in Expert}
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module) or (name == "text_encoder" and pipe.text_encoder_on_cpu):
            continue
        if name in GPU_RESIDENT_COMPONENTS:
            part.to(device)
        elif name in experts and optimizations.offload_blocks is not None:
            apply_group_offloading(
                part,
                onload_device=device,
                offload_type="block_level",
                num_blocks_per_group=optimizations.offload_blocks,
                use_stream=optimizations.offload_prefetch,
            )
        else:
            _offload_layers(part, optimizations, device)


def _offload_layers(module: nn.Module, optimizations: OptimizationConfig, device: torch.device) -> None:
    apply_group_offloading(
        module, onload_device=device, offload_type="leaf_level", use_stream=optimizations.offload_prefetch
    )

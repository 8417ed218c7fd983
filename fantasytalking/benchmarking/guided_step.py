"""Benchmark row guided_step: one denoising step with three guidance branches, against diffusers' own transformer.

Exact savings in operations at 1.3B width, 4 layers, latents 9 x 24 x 24 (a naive step has 1,616 GFLOP): keys and values
of text and portrait 5.3 %, the embedding of both 2.0 %, and the part that is shared by the branches before the first
cross-attention (its self-attention and query, the attention to the portrait) 5.3 %, which leaves 0.87. The latter two
occur in the first layer only, so they are less than 1 % each at full depth.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fantasytalking.benchmarking.interleaved_timing import (
    Workload,
    WorkloadTiming,
    count_flops,
    matmul_flops_per_second,
    peak_memory_gib,
    time_interleaved,
)
from fantasytalking.conditions import Conditions
from fantasytalking.models.cpu.attention import use_float32_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.cpu.memory import retain_freed_memory
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.presets import load_model_config, transformer_kwargs
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import parameter_dtype


@dataclass(frozen=True)
class GuidedStepSize:
    """Size of the model and its inputs."""

    preset: str
    """Preset that determines the width."""
    layers: int
    latents: tuple[int, int, int]
    """Latent frames, height and width."""
    rounds: int
    matrix_side: int
    """Side of the square matrix product whose speed is the ceiling."""
    audio_tokens: int = 17
    """Audio tokens per latent frame."""


CPU_GUIDED_STEP_SIZE = GuidedStepSize("wan1.3b", layers=4, latents=(9, 24, 24), rounds=3, matrix_side=3072)
GPU_GUIDED_STEP_SIZE = GuidedStepSize("wan14b", layers=40, latents=(21, 64, 64), rounds=5, matrix_side=8192)
"""Full depth, 81 frames at 512 px."""


class StepVariant(NamedTuple):
    """One implementation of the step; `run` returns the three predictions."""

    name: str
    dtype: torch.dtype
    run: Workload
    flops_run: Workload | None = None
    """Another workload with the same matrix products, if torch cannot count those of `run`."""


def benchmark_guided_step(size: GuidedStepSize, device: torch.device, dtypes: Sequence[torch.dtype]) -> str:
    """Times the three branches (none, text, text and audio) of all variants.

    The naive variant is three calls of diffusers' own transformer in the first of the `dtypes`. It has no audio and so
    does a little less work; our untrained modules add nothing, so all variants must predict the same.

    Returns:
        a Markdown table.
    """
    if device.type == "cpu":
        retain_freed_memory()  # for all variants, since it applies to the process
    config = load_model_config(size.preset)
    arguments = {**transformer_kwargs(config), "num_layers": size.layers}
    base_arguments = {key: value for key, value in arguments.items() if key not in vars(config.portrait)}
    torch.manual_seed(0)
    with torch.device(device):
        base = WanTransformer3DModel(**base_arguments).eval().requires_grad_(False)
        ours = FantasyTalkingTransformer3DModel(**arguments).eval().requires_grad_(False)
    ours.load_state_dict({**ours.state_dict(), **base.state_dict()})
    inputs = _random_inputs(size, arguments, device)
    with torch.no_grad():
        variants = _diffusers_variants(_cast_parameters(base, dtypes[0]), inputs, dtypes[0])
        for dtype in dtypes:
            variants += _our_variants(
                _cast_parameters(copy.deepcopy(ours), dtype), inputs, dtype, include_slower=dtype is dtypes[0]
            )
        errors = _prediction_errors(variants)
        timings = time_interleaved({variant.name: variant.run for variant in variants}, device, size.rounds)
        # After the first step, which fills the caches.
        flops = [count_flops(variant.flops_run or variant.run) for variant in variants]
    rates = {dtype: matmul_flops_per_second(device, dtype, size.matrix_side) for dtype in dtypes}
    attained = ", ".join(f"{rate / 1e12:.3f} TFLOP/s in {_dtype_name(dtype)}" for dtype, rate in rates.items())
    title = (
        f"{size.preset}, {size.layers} layers, latents {' x '.join(map(str, size.latents))}, "
        f"{size.audio_tokens} audio tokens per frame, {device.type}, median of {size.rounds} rounds; "
        f"matrix products here attain {attained}; peak memory {peak_memory_gib(device):.1f} GiB"
    )
    return f"{title}\n\n{_table(timings, flops, [rates[variant.dtype] for variant in variants], errors)}"


def _diffusers_variants(base: WanTransformer3DModel, inputs: "_Inputs", dtype: torch.dtype) -> list[StepVariant]:
    latents, branches = inputs.cast(dtype)
    joined = torch.cat([latents, branches[0].image_latents], dim=1)

    def run() -> list[Tensor]:
        return [base(joined, inputs.timestep, branch.prompt_embeds, branch.image_embeds).sample for branch in branches]

    return [StepVariant(f"diffusers' transformer, {_dtype_name(dtype)}, three calls", dtype, run)]


def _our_variants(
    model: FantasyTalkingTransformer3DModel, inputs: "_Inputs", dtype: torch.dtype, *, include_slower: bool
) -> list[StepVariant]:
    """Returns the variants of our model; `include_slower` adds those that save less."""
    latents, branches = inputs.cast(dtype)
    with_audio = branches[-1]
    texts, scales = (
        torch.cat([getattr(branch, name) for branch in branches]) for name in ("prompt_embeds", "condition_scale")
    )
    together, name = with_audio._replace(prompt_embeds=texts, condition_scale=scales), f"ours, {_dtype_name(dtype)}"

    def in_turn(model: FantasyTalkingTransformer3DModel, cache: ConditionKVCache | None) -> Workload:
        return lambda: [model(latents, inputs.timestep, branch, cache=cache).sample for branch in branches]

    def at_once(model: FantasyTalkingTransformer3DModel, cache: ConditionKVCache) -> Workload:
        return lambda: model(latents, inputs.timestep, together, cache=cache).sample.split(1)

    variants = [
        StepVariant(f"{name}, three calls", dtype, in_turn(model, None)),
        StepVariant(f"{name}, three calls, keys and values reused", dtype, in_turn(model, ConditionKVCache())),
    ]
    together_once = at_once(model, ConditionKVCache())
    variants = [*(variants if include_slower else []), StepVariant(f"{name}, together, reused", dtype, together_once)]
    if latents.device.type == "cpu":
        fused, name = copy.deepcopy(model), f"{name}, together, reused, fewer passes"
        fuse_blocks(fused)
        if dtype is torch.bfloat16:
            use_float32_attention(fused)
            name = f"{name}, attention in float32"
        variants.append(StepVariant(name, dtype, at_once(fused, ConditionKVCache()), together_once))
    return variants


def _prediction_errors(variants: list[StepVariant]) -> list[float]:
    """Returns the largest difference from the naive predictions over their standard deviation, per variant."""
    expected, *others = (torch.cat(list(variant.run())).float() for variant in variants)  # type: ignore[call-overload]
    return [0.0, *(float((other - expected).abs().max() / expected.std()) for other in others)]


class _Inputs(NamedTuple):
    """Random inputs in float32."""

    latents: Tensor
    timestep: Tensor
    branches: list[Conditions]

    def cast(self, dtype: torch.dtype) -> tuple[Tensor, list[Conditions]]:
        """Returns latents and branches in `dtype`; tensors shared by the branches stay one object."""
        first = self.branches[-1].to(dtype=dtype)
        converted = [branch.to(dtype=dtype) for branch in self.branches]
        texts = [
            first.prompt_embeds if own.prompt_embeds is self.branches[-1].prompt_embeds else new.prompt_embeds
            for own, new in zip(self.branches, converted, strict=True)
        ]
        scales = [branch.condition_scale for branch in converted]
        return self.latents.to(dtype), [
            first._replace(prompt_embeds=text, condition_scale=scale) for text, scale in zip(texts, scales, strict=True)
        ]


def _random_inputs(size: GuidedStepSize, arguments: dict[str, Any], device: torch.device) -> _Inputs:
    generator = torch.Generator().manual_seed(0)
    frames, height, width = size.latents

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    prompt, negative = random(1, 512, arguments["text_dim"]), random(1, 512, arguments["text_dim"])
    with_audio = Conditions(
        prompt_embeds=prompt,
        image_embeds=random(1, 257, arguments["image_dim"]),
        image_latents=random(1, arguments["in_channels"] - arguments["out_channels"], frames, height, width),
        audio_embeds=random(1, frames, size.audio_tokens, arguments["audio_dim"]),
        audio_mask=torch.ones(1, frames, size.audio_tokens, dtype=torch.bool, device=device),
        face_embeds=random(1, 1, arguments["face_dim"]),
        motion_intensity=torch.full((1, 2), 0.5, device=device),
        condition_scale=torch.ones(1, 2, device=device),
    )
    without_audio = with_audio._replace(condition_scale=torch.tensor([[0.0, 1.0]], device=device))
    latents = random(1, arguments["out_channels"], frames, height, width)
    return _Inputs(
        latents,
        torch.tensor([500.0], device=device),
        [without_audio._replace(prompt_embeds=negative), without_audio, with_audio],
    )


def _cast_parameters(model: Any, dtype: torch.dtype) -> Any:
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(model, name, dtype))
    return model


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _table(timings: list[WorkloadTiming], flops: list[int], rates: list[float], errors: list[float]) -> str:
    lines = [
        "| variant | seconds | ratio | spread | by operations | of the attained rate | largest error |",
        "|---|---|---|---|---|---|---|",
    ]
    for timing, operations, rate, error in zip(timings, flops, rates, errors, strict=True):
        lines.append(
            f"| {timing.name} | {timing.median:.2f} | {timing.ratio:.3f} | "
            f"{min(timing.ratios):.3f} to {max(timing.ratios):.3f} | {operations / flops[0]:.3f} | "
            f"{operations / timing.median / rate:.2f} | {error:.1e} |"
        )
    return "\n".join(lines)

"""Row guided_step: one denoising step with three guidance branches, ours against diffusers' own transformer."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fantasytalking.benchmarking.measure import Side, Timing, count_flops, in_turn, matrix_rate, peak_memory
from fantasytalking.conditions import Conditions
from fantasytalking.models.assembly import kept_dtype
from fantasytalking.models.condition_cache import ConditionCache
from fantasytalking.models.presets import load_model_config, transformer_arguments
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


@dataclass(frozen=True)
class GuidedStepSize:
    """What is run: a preset's width, so many layers, latents of F x H x W."""

    preset: str
    layers: int
    latents: tuple[int, int, int]
    rounds: int
    matrix: int
    """Side of the square product whose speed is the ceiling."""
    audio_tokens: int = 17


CPU_SIZE = GuidedStepSize("wan1.3b", layers=2, latents=(9, 24, 24), rounds=3, matrix=3072)
GPU_SIZE = GuidedStepSize("wan14b", layers=40, latents=(21, 64, 64), rounds=5, matrix=8192)
"""Full depth, 81 frames at 512 px."""


def guided_step(size: GuidedStepSize, device: torch.device, dtype: torch.dtype) -> str:
    """Times the three branches (none, text, text and audio) five ways; gives a Markdown table.

    The naive side is three calls of diffusers' own transformer, which hears no audio and so does a little less work.
    """
    config = load_model_config(size.preset)
    arguments = {**transformer_arguments(config), "num_layers": size.layers}
    base_arguments = {key: value for key, value in arguments.items() if key not in vars(config.portrait)}
    base = _random_weights(WanTransformer3DModel, base_arguments, device, dtype)
    ours = _random_weights(FantasyTalkingTransformer3DModel, arguments, device, dtype)
    latents, timestep, branches = _inputs(size, arguments, device, dtype)
    with torch.no_grad():
        sides = _sides(base, ours, latents, timestep, branches)
        timings = in_turn(sides, device, size.rounds)
        flops = [count_flops(side) for side in sides.values()]  # after the first step, which fills the caches
    rate = matrix_rate(device, dtype, size.matrix)
    title = (
        f"{size.preset}, {size.layers} layers, latents {' x '.join(map(str, size.latents))}, "
        f"{size.audio_tokens} audio tokens a frame, {device.type}, {str(dtype).removeprefix('torch.')}, "
        f"median of {size.rounds} rounds; matrix products here attain {rate / 1e12:.3f} TFLOP/s; "
        f"peak memory {peak_memory(device):.1f} GiB"
    )
    return f"{title}\n\n{_table(timings, flops, rate)}"


def _sides(
    base: WanTransformer3DModel,
    ours: FantasyTalkingTransformer3DModel,
    latents: Tensor,
    timestep: Tensor,
    branches: list[Conditions],
) -> dict[str, Side]:
    joined = torch.cat([latents, branches[0].latents], dim=1)
    batched = Conditions(*(_joined([getattr(b, name) for b in branches]) for name in Conditions._fields))
    thrice, timesteps = latents.repeat(3, 1, 1, 1, 1), timestep.repeat(3)
    cache, batched_cache = ConditionCache(), ConditionCache()
    return {
        "diffusers' transformer, three calls": lambda: [
            base(joined, timestep, branch.text, branch.image) for branch in branches
        ],
        "ours, three calls": lambda: [ours(latents, timestep, branch) for branch in branches],
        "ours, three calls, keys and values reused": lambda: [
            ours(latents, timestep, branch, cache=cache) for branch in branches
        ],
        "ours, one batched call": lambda: ours(thrice, timesteps, batched),
        "ours, one batched call, keys and values reused": lambda: ours(thrice, timesteps, batched, cache=batched_cache),
    }


def _joined(values: list[Tensor]) -> Tensor:
    """One tensor for the batch of branches; what all branches share stays one."""
    return values[0] if all(value is values[0] for value in values) else torch.cat(values)


def _inputs(
    size: GuidedStepSize, arguments: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, list[Conditions]]:
    generator = torch.Generator().manual_seed(0)
    frames, height, width = size.latents

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    prompt, negative = random(1, 512, arguments["text_dim"]), random(1, 512, arguments["text_dim"])
    heard = Conditions(
        text=prompt,
        image=random(1, 257, arguments["image_dim"]),
        latents=random(1, 20, frames, height, width),
        audio=random(1, frames, size.audio_tokens, arguments["audio_dim"]),
        audio_mask=torch.ones(1, frames, size.audio_tokens, dtype=torch.bool, device=device),
        face=random(1, 1, arguments["face_dim"]),
        motion=torch.full((1, 2), 0.5, device=device, dtype=dtype),
        gate=torch.ones(1, 2, device=device, dtype=dtype),
    )
    silent = heard._replace(gate=torch.tensor([[0.0, 1.0]], device=device, dtype=dtype))
    latents = random(1, 16, frames, height, width)
    return latents, torch.tensor([500.0], device=device), [silent._replace(text=negative), silent, heard]


def _random_weights(model_class: type, arguments: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class(**arguments).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(kept_dtype(model, name, dtype))
    return model


def _table(timings: list[Timing], flops: list[int], rate: float) -> str:
    lines = [
        "| side | seconds | ratio | spread | by operations | of the attained rate |",
        "|---|---|---|---|---|---|",
    ]
    for timing, operations in zip(timings, flops, strict=True):
        lines.append(
            f"| {timing.name} | {timing.median:.2f} | {timing.ratio:.3f} | "
            f"{min(timing.ratios):.3f} to {max(timing.ratios):.3f} | {operations / flops[0]:.3f} | "
            f"{operations / timing.median / rate:.2f} |"
        )
    return "\n".join(lines)

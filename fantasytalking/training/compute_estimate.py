"""Estimates memory and time of training and inference by preset, resolution, trained parameters and number of GPUs.

Memory is that of `fantasytalking.training.memory_estimate`; time is the number of operations over a given rate. The
operations are those of matrix products and attention in one and two blocks, counted by torch on the meta device and
extrapolated to the full depth. Communication, optimizer step and data loading are not included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.presets import load_model_config, model_presets
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.gpus import find_gpu
from fantasytalking.training.memory_estimate import (
    ClipSize,
    build_meta_model,
    estimate_memory,
    largest_clip_size,
    meta_inputs,
)

GUIDED_STEP_BRANCHES = 3
"""Forward passes per guided step."""
TRAINABLE_SETS: dict[str, list[str]] = {
    "adapters": [],
    "adapters and LoRA 64": ["stage.lora.rank=64", "stage.lora.alpha=64"],
    "everything": ["stage.trainable=['*']"],
}
"""Overrides of a preset's stage 2, by what they train."""


class FlopCounter(TorchDispatchMode):
    """Counts the operations of matrix products and attention, forward and backward, by torch's formulas.

    torch's FlopCounterMode also tracks modules, which fails in a backward pass on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total_flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and adds its operations."""
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total_flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


def full_size_presets() -> list[str]:
    """Returns the presets but nano, which needs no estimate."""
    return [preset for preset in model_presets() if preset != "nano"]


@dataclass(frozen=True)
class ComputeEstimateConfig:
    """Rows of the table."""

    presets: Sequence[str] = field(default_factory=full_size_presets)
    resolutions: Sequence[int] = (256, 512, 720)
    """Sides of square clips in pixels, rounded down to whole tokens of each preset."""
    num_frames: int = 81
    num_gpus: Sequence[int] = (1, 8, 64)
    gpu: str = "A100"
    """Name in `GPUS`, for the time; the paper's by default."""
    flops_per_second: float | None = None
    """Operations per second and GPU; None: what `gpu` attains."""

    def validate(self) -> None:
        """Validates resolutions, numbers of GPUs and rate.

        Raises:
            InputError: one is out of range.
        """
        for pixels in self.resolutions:
            if not 64 <= pixels <= 4096:
                raise InputError(
                    f"resolutions has {pixels}; it must be 64 to 4096",
                    code=ErrorCode.out_of_range,
                    field="resolutions",
                    value=pixels,
                )
        for count in self.num_gpus:
            if not 1 <= count <= 65536:
                raise InputError(
                    f"num_gpus has {count}; it must be 1 to 65536",
                    code=ErrorCode.out_of_range,
                    field="num_gpus",
                    value=count,
                )
        if self.flops_per_second is None:
            find_gpu(self.gpu)
        elif not 0 < self.flops_per_second <= 1e18:
            raise InputError(
                f"flops_per_second is {self.flops_per_second:g}; it must be above 0 and at most 1e18",
                code=ErrorCode.out_of_range,
                field="flops_per_second",
                value=self.flops_per_second,
            )

    @property
    def rate(self) -> tuple[float, str]:
        """Operations per second and GPU, and what is known of them."""
        if self.flops_per_second is not None:
            return self.flops_per_second, "assumed"
        gpu = find_gpu(self.gpu)
        return gpu.flops_per_second, f"of an {self.gpu}: {gpu.source}"


def compute_estimate_table(config: ComputeEstimateConfig) -> str:
    """Returns a Markdown table with a row per preset, resolution and trained set: one clip per GPU, sharded weights."""
    rate, source = config.rate
    memory = " | ".join(f"GiB per GPU of {count}" for count in config.num_gpus)
    lines = [
        f"{config.num_frames} frames, one clip per GPU, bf16, gradient checkpointing; "
        f"{rate / 1e12:g} TFLOP/s per GPU ({source})",
        "",
        f"| model | pixels | what trains | parameters | {memory} | s per training step | s per guided step |",
        "|" + "---|" * (6 + len(config.num_gpus)),
    ]
    lines += list(_rows(config))
    return "\n".join(lines)


class FlopCounts(NamedTuple):
    """Operations of one micro-batch."""

    forward: int
    """One forward pass."""
    training_step: int
    """Forward and backward pass, recomputation included."""


ShallowModels = tuple[FantasyTalkingTransformer3DModel, FantasyTalkingTransformer3DModel]
"""A run's model with one block and with two, on the meta device."""


def build_shallow_models(config: TrainConfig) -> ShallowModels:
    """Returns the models whose operations `estimate_flops` counts."""
    return build_meta_model(config, 1), build_meta_model(config, 2)


def estimate_flops(config: TrainConfig, size: ClipSize, models: ShallowModels | None = None) -> FlopCounts:
    """Returns the operations of a run's whole model, on clips of one size.

    Args:
        models: those of `build_shallow_models`, for estimates of several sizes; None builds them.
    """
    one, two = (_measure_flops(config, size, model) for model in models or build_shallow_models(config))
    block = FlopCounts(two.forward - one.forward, two.training_step - one.training_step)
    layers = load_model_config(config.model).wan.num_layers
    recomputed = layers * block.forward if config.gradient_checkpointing else 0  # every block runs forward once more
    return FlopCounts(
        one.forward + (layers - 1) * block.forward,
        one.training_step + (layers - 1) * block.training_step + recomputed,
    )


def describe_time(config: TrainConfig, world_size: int, gpu: str, clip_size: ClipSize | None = None) -> str:
    """Returns the time of a run's steps on GPUs of one kind, as a line of text.

    Args:
        world_size: number of processes, each with a GPU.
        gpu: name in `GPUS`.
        clip_size: as in `memory_estimate.describe_plan`.

    Raises:
        InputError: the GPU is not known.
    """
    found = find_gpu(gpu)
    per_clip = estimate_flops(config, clip_size or largest_clip_size(config)).training_step
    seconds = per_clip * config.gradient_accumulation_steps / found.flops_per_second
    hours = seconds * config.stage.steps / 3600
    return (
        f"time on {world_size} {gpu} at {found.flops_per_second / 1e12:g} TFLOP/s each ({found.source}): "
        f"{seconds:.2f} s per step of the largest clip, {hours:,.1f} h for {config.stage.steps:,} steps; without "
        "communication, data loading and validation"
    )


def _rows(estimate: ComputeEstimateConfig) -> Iterator[str]:
    rate, _ = estimate.rate
    for preset in estimate.presets:
        path = preset_path(preset, "stage2")
        configs = {name: load_config(TrainConfig, path, overrides) for name, overrides in TRAINABLE_SETS.items()}
        models = {name: build_meta_model(config) for name, config in configs.items()}
        shallow = {name: build_shallow_models(config) for name, config in configs.items()}
        token = load_model_config(preset).geometry.token_pixels
        for pixels in (side - side % token for side in estimate.resolutions):
            size = ClipSize(pixels, pixels, estimate.num_frames, 23.0)
            for name, config in configs.items():
                need = estimate_memory(config, size, models[name])
                gib = " | ".join(f"{need.sharded(count) / 2**30:.1f}" for count in estimate.num_gpus)
                operations = estimate_flops(config, size, shallow[name])
                training = operations.training_step / rate
                guided = GUIDED_STEP_BRANCHES * operations.forward / rate
                row = (
                    preset,
                    str(pixels),
                    name,
                    f"{need.trainable / 4e6:,.0f} M",
                    gib,
                    f"{training:.2f}",
                    f"{guided:.2f}",
                )
                yield f"| {' | '.join(row)} |"


def _measure_flops(config: TrainConfig, size: ClipSize, model: FantasyTalkingTransformer3DModel) -> FlopCounts:
    latents, conditions = meta_inputs(config, size, model, torch.float32)
    with torch.device("meta"), FlopCounter() as counter:
        total = model(latents, torch.zeros(config.batch_size, device="meta"), conditions).sample.sum()
        forward = counter.total_flops
        total.backward()
    model.zero_grad(set_to_none=True)
    return FlopCounts(forward, counter.total_flops)

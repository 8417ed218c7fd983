"""What training and inference need at full size: memory and time, by preset, picture size, what trains and GPUs.

Memory is the plan's estimate (`fantasytalking.training.memory_estimate`), time the operations over a rate that is
given. They are those of the matrix products and attentions of one and of two blocks, counted by torch on tensors
without memory and continued to the full depth; communication, the optimiser's step and reading of data are not in them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.memory_estimate import ClipSize, build_meta_model, estimate_memory, meta_inputs

GUIDED_STEP_BRANCHES = 3
"""Of a guided step."""
TRAINABLE_SETS: dict[str, list[str]] = {
    "adapters": [],
    "adapters and LoRA 64": ["stage.lora.rank=64", "stage.lora.alpha=64"],
    "everything": ["stage.trainable=['*']"],
}
"""What trains, as overrides of a preset's stage 2."""


class FlopCounter(TorchDispatchMode):
    """Counts the operations of products and attentions, backward too, by torch's own formulas.

    torch's FlopCounterMode also follows modules, which fails on a backward pass through parameters without memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total_flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function and adds its operations."""
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total_flops += formula(*args, **(kwargs or {}), out_val=made)
        return made


@dataclass(frozen=True)
class ComputeEstimateConfig:
    """The rows of the table."""

    presets: Sequence[str] = ("wan1.3b", "wan14b")
    resolutions: Sequence[int] = (256, 512, 720)
    num_frames: int = 81
    num_gpus: Sequence[int] = (1, 8, 64)
    flops_per_second: float = 400e12
    """Operations a second that a GPU attains."""

    def validate(self) -> None:
        """Holds sizes, processes and rate in their limits.

        Raises:
            InputError: naming the value, the limit and the cure.
        """
        for pixels in self.resolutions:
            if not 16 <= pixels <= 4096 or pixels % 16:
                raise InputError(f"a size is {pixels}; it must be a multiple of 16 from 16 to 4096")
        for count in self.num_gpus:
            if not 1 <= count <= 65536:
                raise InputError(f"the number of GPUs is {count}; it must be 1 to 65536")
        if not 0 < self.flops_per_second <= 1e18:
            raise InputError(
                f"the rate is {self.flops_per_second / 1e12:g} TFLOP/s; it must be above 0 and at most a million"
            )


def compute_estimate_table(config: ComputeEstimateConfig) -> str:
    """Markdown: a row for each preset, size and set of what trains; one clip on each GPU, weights sharded over them."""
    memory = " | ".join(f"GiB a GPU of {count}" for count in config.num_gpus)
    lines = [
        f"{config.num_frames} frames, one clip a GPU, bf16, gradient checkpointing; "
        f"{config.flops_per_second / 1e12:g} TFLOP/s a GPU assumed",
        "",
        f"| model | pixels | what trains | parameters | {memory} | s a training step | s a guided step |",
        "|" + "---|" * (6 + len(config.num_gpus)),
    ]
    lines += list(_rows(config))
    return "\n".join(lines)


class FlopCounts(NamedTuple):
    """Of one micro-batch."""

    forward: int
    """One forward pass."""
    training_step: int
    """Forward and backward pass, recomputation included."""


def estimate_flops(config: TrainConfig, size: ClipSize) -> FlopCounts:
    """Of a run's whole model, on clips of one size."""
    models = [build_meta_model(config, layers) for layers in (1, 2)]
    first, second = (_measure_flops(config, size, model, backward=False) for model in models)
    one, two = (_measure_flops(config, size, model, backward=True) for model in models)
    if config.gradient_checkpointing:  # every block runs forward once more
        one, two = one + (second - first), two + 2 * (second - first)
    layers = load_model_config(config.model).wan.num_layers
    return FlopCounts(first + (layers - 1) * (second - first), one + (layers - 1) * (two - one))


def _rows(estimate: ComputeEstimateConfig) -> Iterator[str]:
    for preset in estimate.presets:
        path = preset_path(preset, "stage2")
        configs = {name: load_config(TrainConfig, path, overrides) for name, overrides in TRAINABLE_SETS.items()}
        models = {name: build_meta_model(config) for name, config in configs.items()}
        for pixels in estimate.resolutions:
            size = ClipSize(pixels, pixels, estimate.num_frames, 23.0)
            for name, config in configs.items():
                need = estimate_memory(config, size, models[name])
                gib = " | ".join(f"{need.sharded(count) / 2**30:.1f}" for count in estimate.num_gpus)
                operations = estimate_flops(config, size)
                training, guided = (
                    operations.training_step / estimate.flops_per_second,
                    GUIDED_STEP_BRANCHES * operations.forward / estimate.flops_per_second,
                )
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


def _measure_flops(
    config: TrainConfig, size: ClipSize, model: FantasyTalkingTransformer3DModel, *, backward: bool
) -> int:
    latents, conditions = meta_inputs(config, size, model, torch.float32)
    with torch.device("meta"), FlopCounter() as counter:
        if not backward:
            with torch.no_grad():
                model(latents, torch.zeros(config.batch_size, device="meta"), conditions)
        else:
            model(latents, torch.zeros(config.batch_size, device="meta"), conditions).sample.sum().backward()
    return counter.total_flops

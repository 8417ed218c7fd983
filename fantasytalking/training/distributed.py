"""accelerate as a run uses it: one process, DDP, FSDP or DeepSpeed, and the trackers."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
    is_tensorboard_available,
    is_wandb_available,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from fantasytalking.common.errors import InputError, install_command
from fantasytalking.training.config import MixedPrecision, TrainConfig, WandbMode

PROCESS_GROUP_TIMEOUT = timedelta(hours=2)
"""For one another: the first process alone reads the base and writes checkpoints, and 14B take their time."""


def build_accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator of the run's precision and accumulation; how many processes there are is the launcher's say.

    Raises:
        InputError: bf16 on a GPU that has none, several processes that would not know of each other, FSDP's first
            version, or a tracker that is not installed.
    """
    _check_trackers(config.logging.trackers)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    sharding = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    accelerator = Accelerator(
        cpu=not sharding and not torch.cuda.is_available(),
        mixed_precision="bf16" if config.mixed_precision is MixedPrecision.bf16 else "no",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=list(config.logging.trackers) or None,
        project_dir=config.output,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)],
    )
    if accelerator.num_processes != launched:
        raise InputError(
            f"{launched} processes were launched and accelerate counts {accelerator.num_processes}: without a GPU it "
            "joins processes under DDP alone; launch one, or use configs/accelerate/ddp.yaml"
        )
    half = config.mixed_precision is MixedPrecision.bf16
    if accelerator.device.type == "cuda" and half and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(f"{torch.cuda.get_device_name()} has no bf16; use precision=fp32")
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = config.batch_size
        settings["gradient_accumulation_steps"] = config.gradient_accumulation_steps
        settings["gradient_clipping"] = config.optimizer.max_grad_norm
        accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
    if accelerator.distributed_type is DistributedType.FSDP:
        _configure_fsdp(accelerator, config.mixed_precision)
    return accelerator


def _configure_fsdp(accelerator: Accelerator, mixed_precision: MixedPrecision) -> None:
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise InputError(f"fsdp_version is {plugin.fsdp_version}; training shards by 2: configs/accelerate/fsdp.yaml")
    if mixed_precision is MixedPrecision.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # accelerate's own would cast timesteps and rotations too, and sum gradients in bf16.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def prepare_model_and_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Model and optimiser as accelerate prepares them, with the first process's weights on every process."""
    sharding = accelerator.distributed_type is DistributedType.FSDP  # DDP and DeepSpeed send weights themselves
    weights = model.state_dict() if sharding and accelerator.is_main_process else {}
    prepared, prepared_optimiser = accelerator.prepare(model, optimizer)
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        # While this lives, transformers divides under ZeRO-3 whatever it loads, validation's encoders too.
        accelerator.state.deepspeed_plugin.dschf = None
    if sharding:
        # accelerate's cpu_ram_efficient_loading fails on a parameter of the outermost module, and would have
        # transformers leave the encoders of validation empty.
        set_model_state_dict(
            prepared, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        )
    return prepared, prepared_optimiser


def _check_trackers(names: Sequence[str]) -> None:
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    missing = [name for name in names if not installed[name]()]
    if missing:
        raise InputError(f"logging.trackers has '{missing[0]}', which is not installed: {install_command('train')}")


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a process holds only a part of every parameter (FSDP, ZeRO-3)."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        return int(accelerator.state.deepspeed_plugin.zero_stage) == 3
    return accelerator.distributed_type is DistributedType.FSDP


class Trackers:
    """tensorboard and wandb, or none."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig) -> None:
        self._accelerator, self._config = accelerator, config

    def start(self) -> None:
        """Opens them; a wandb run is continued when the run is resumed."""
        config = self._config
        if not config.logging.trackers:
            return
        options: dict[str, dict[str, Any]] = {}
        if "wandb" in config.logging.trackers:
            options["wandb"] = {
                "mode": WandbMode(config.logging.wandb_mode).value,
                "dir": config.output,
                "id": _wandb_id(Path(config.output)),
                "resume": "allow",
            }
        self._accelerator.init_trackers(config.logging.project, init_kwargs=options)

    def log(self, values: dict[str, float], step: int) -> None:
        """Numbers of a step."""
        if self._config.logging.trackers:
            self._accelerator.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        """A picture file."""
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: pixels[None]}, step=step, **layout)

    def log_video(self, name: str, path: Path, step: int) -> None:
        """A video file with its sound; tensorboard has no place for one."""
        if "wandb" in self._config.logging.trackers and self._accelerator.is_main_process:
            import wandb

            self._accelerator.get_tracker("wandb").log({name: wandb.Video(str(path))}, step=step)

    def finish(self) -> None:
        """Closes them and takes the processes apart."""
        self._accelerator.end_training()


def _wandb_id(output: Path) -> str:
    """The same for the same output folder, in the letters that wandb allows."""
    text = str(output.resolve())
    return "".join(character if character.isalnum() else "-" for character in text)[-64:].strip("-")

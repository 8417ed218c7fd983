"""Sets up accelerate for one process, DDP, FSDP or DeepSpeed."""

import os
from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn.parallel import DistributedDataParallel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.processes import check_all_connected, launched_processes
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.training.config import BaseQuantization, MixedPrecision, OptimizerType, TrainConfig
from fantasytalking.training.optimizers import optimizer_class
from fantasytalking.training.trackers import check_trackers_installed

PROCESS_GROUP_TIMEOUT = timedelta(hours=2)
"""How long processes wait for the first one, which alone reads the base and writes checkpoints."""


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Returns an Accelerator with the run's precision and accumulation, on the processes of the launcher.

    Raises:
        InputError: the GPU does not support bf16, the launched processes are not connected, FSDP is version 1, or a
            tracker is not installed.
    """
    check_trackers_installed(config.logging.trackers)
    launched = launched_processes()
    sharding = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))
    accelerator = Accelerator(
        cpu=not sharding and not torch.cuda.is_available(),
        mixed_precision="bf16" if config.mixed_precision is MixedPrecision.bf16 else "no",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=list(config.logging.trackers) or None,
        project_dir=config.output,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)],
    )
    check_all_connected(launched, accelerator.num_processes)
    is_bf16 = config.mixed_precision is MixedPrecision.bf16
    if accelerator.device.type == "cuda" and is_bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            f"mixed_precision is bf16, which {torch.cuda.get_device_name()} does not support; use mixed_precision=no",
            code=ErrorCode.unsupported,
            field="mixed_precision",
            value="bf16",
        )
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
        raise InputError(
            f"fsdp_version is {plugin.fsdp_version}; it must be 2, as in configs/accelerate/fsdp.yaml",
            code=ErrorCode.unsupported,
            field="fsdp_version",
            value=plugin.fsdp_version,
        )
    if mixed_precision is MixedPrecision.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # accelerate's own policy also casts timesteps and rotary embeddings, and reduces gradients in bf16.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def check_compatible(config: TrainConfig, accelerator: Accelerator) -> None:
    """Validates that the configuration works under the parallelism of the launcher.

    Raises:
        InputError: the moving average needs weights that DeepSpeed does not show, the base is quantized and would be
            divided, the optimizer needs whole matrices, or a package that it needs is missing.
    """
    optimizer_class(config.optimizer.type)
    for field, value, reason in _conflicts(config, accelerator):
        raise InputError(f"{field} is {value}, but {reason}", code=ErrorCode.unsupported, field=field, value=value)


def _conflicts(config: TrainConfig, accelerator: Accelerator) -> Iterator[tuple[str, object, str]]:
    """Settings that the launcher's parallelism does not support: field, value, reason and cure."""
    optimizer, quantization = config.optimizer.type, config.base_quantization
    decay, is_bf16 = config.optimizer.ema_decay, config.mixed_precision is MixedPrecision.bf16
    is_deepspeed = accelerator.distributed_type is DistributedType.DEEPSPEED
    if decay and is_deepspeed and is_sharded(accelerator):
        yield (
            *("optimizer.ema_decay", decay),
            "DeepSpeed's ZeRO-3 keeps the weights where no average can replace them; set it to 0, or use "
            "configs/accelerate/fsdp.yaml",
        )
    if decay and is_deepspeed and is_bf16:
        yield (
            *("optimizer.ema_decay", decay),
            "DeepSpeed rounds the weights to bf16; set it to 0, or use mixed_precision=no",
        )
    if optimizer is OptimizerType.adamw_8bit and is_deepspeed:
        yield (
            *("optimizer.type", optimizer.value),
            "DeepSpeed has optimizers of its own; use adamw, or one process, DDP or FSDP",
        )
    if quantization is not BaseQuantization.none and _uses_fsdp_or_deepspeed(accelerator):
        yield (
            *("base_quantization", quantization.value),
            "FSDP and DeepSpeed divide the base over the processes instead; use none, or one process or DDP",
        )
    if optimizer is OptimizerType.muon and _uses_fsdp_or_deepspeed(accelerator):
        yield (
            *("optimizer.type", optimizer.value),
            "it needs whole matrices; use adamw, or one process or DDP",
        )


def model_input_dtype(config: TrainConfig, accelerator: Accelerator) -> torch.dtype:
    """Returns the type of the model's inputs.

    FSDP and DeepSpeed cast the whole model and expect inputs in its type; otherwise the model autocasts.
    """
    is_bf16 = config.mixed_precision is MixedPrecision.bf16
    return torch.bfloat16 if is_bf16 and _uses_fsdp_or_deepspeed(accelerator) else torch.float32


def prepare_model_and_optimizer(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Prepares model and optimizer by accelerate and sends the first process's weights to every process."""
    _leave_quantized_weights(model)
    is_fsdp = accelerator.distributed_type is DistributedType.FSDP  # DDP and DeepSpeed broadcast weights themselves
    weights = model.state_dict() if is_fsdp and accelerator.is_main_process else {}
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        # While it exists, transformers shards every model it loads under ZeRO-3, including the encoders of validation.
        accelerator.state.deepspeed_plugin.dschf = None
    if is_fsdp:
        # accelerate's cpu_ram_efficient_loading fails on parameters of the outermost module, and makes transformers
        # leave the encoders of validation uninitialized.
        set_model_state_dict(
            prepared, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        )
    return prepared, prepared_optimizer


def _leave_quantized_weights(model: nn.Module) -> None:
    """Excludes quantized weights from DDP's first broadcast: every process has read them, and they do not train."""
    weights = stored_weight_names(model)
    scales = [f"{name}_scale" for name in weights]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*weights, *scales])


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether every process holds only a part of each parameter (FSDP, ZeRO-3)."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        return int(accelerator.state.deepspeed_plugin.zero_stage) == 3
    return accelerator.distributed_type is DistributedType.FSDP


def _uses_fsdp_or_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

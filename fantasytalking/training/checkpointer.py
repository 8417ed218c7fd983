"""The state of a run on disk: trained weights, optimiser, moving average, progress; never the frozen base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fantasytalking.common.errors import InputError
from fantasytalking.training.ema import EMAModel
from fantasytalking.training.run_guard import CheckpointManager, TrainingProgress, read_progress, write_progress

TRAINED_WEIGHTS_FILE = "trained.safetensors"
EMA_WEIGHTS_FILE = "average.safetensors"


class RunState:
    """Saves and loads through accelerate, so that FSDP and DeepSpeed write their shards their own way.

    Args:
        model: as `accelerator` prepared it.
        trained: names of the parameters that train.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        checkpoints: CheckpointManager,
        ema: EMAModel | None,
        trained_names: list[str],
    ) -> None:
        self._accelerator, self._model = accelerator, model
        self._checkpoints, self._ema = checkpoints, ema
        self._trained_names = set(trained_names)
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, progress: TrainingProgress) -> None:
        """Writes a checkpoint under a temporary name and renames it when all processes are done. Every process."""
        accelerator, folder = self._accelerator, self._checkpoints.partial_path(progress.step)
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        progress.layout = self._parallelism()
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["exclude_frozen_parameters"] = True
        accelerator.save_state(str(folder), **options)
        if accelerator.is_main_process:
            if self._ema is not None:
                save_file(self._ema.state_dict(), folder / EMA_WEIGHTS_FILE)
            write_progress(folder, progress)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._checkpoints.commit(progress.step)
        accelerator.wait_for_everyone()

    def load(self) -> TrainingProgress:
        """Goes back to the newest complete checkpoint; without one, a fresh Progress. Every process.

        Raises:
            InputError: it was written in another way of sharing the work, or a process does not see it.
        """
        accelerator = self._accelerator
        if accelerator.is_main_process:
            self._checkpoints.remove_partial()
        accelerator.wait_for_everyone()
        folder = self._latest_checkpoint()
        if folder is None:
            return TrainingProgress()
        progress = read_progress(folder)
        if progress.layout and progress.layout != self._parallelism():
            raise InputError(
                f"checkpoint '{folder}' was written under {progress.layout} and this run is {self._parallelism()}; "
                "launch "
                "it as it was begun, or choose another output folder (stage.init_from goes on from an adapter)"
            )
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["load_module_strict"] = False  # DeepSpeed's word for: the frozen base is not in there
        accelerator.load_state(str(folder), **options)
        accelerator.step = 0  # checkpoints lie between steps; what was counted went by the accumulation of then
        if self._ema is not None:
            self._ema.load_state_dict(load_file(folder / EMA_WEIGHTS_FILE))
        return progress

    def full_state_dict(self, is_needed: Callable[[str], bool]) -> dict[str, Tensor]:
        """The model's tensors as they are to be used: the moving average where there is one.

        Every process must call this, and the main process alone is given all of them.

        Args:
            is_needed: tells by a parameter's name whether it is needed; a sharded one is put together for it.
        """
        if self._accelerator.distributed_type is DistributedType.DEEPSPEED:
            state = self._deepspeed_state_dict(is_needed)
        else:
            state = dict(self._accelerator.get_state_dict(self._model) or {})
        if self._ema is not None:
            state.update(self._ema.state_dict())
        return state

    def _deepspeed_state_dict(self, is_needed: Callable[[str], bool]) -> dict[str, Tensor]:
        """One after another, on the main process alone: accelerate's own way copies the model on every process.

        DeepSpeed trains half-precision weights with a float32 copy beside them; the copy is what was trained.
        """
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        state: dict[str, Tensor] = {}
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            if not is_needed(name):
                continue
            trained = name in self._trained_names
            with GatheredParameters([] if trained else [parameter]):  # which does nothing where it is whole already
                value = safe_get_full_fp32_param(parameter) if trained else parameter.detach()
                if self._accelerator.is_main_process:
                    state[name] = value.cpu().clone()
        return state

    def _parallelism(self) -> str:
        """How processes share the work, as far as a checkpoint's files depend on it."""
        accelerator = self._accelerator
        if accelerator.distributed_type is DistributedType.FSDP:
            return "FSDP"
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            stage = accelerator.state.deepspeed_plugin.zero_stage
            return f"ZeRO-{stage} on {accelerator.num_processes} processes"
        return "one process or DDP"

    def _latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that the main process sees, which all must see.

        Raises:
            InputError: one does not.
        """
        newest = self._checkpoints.latest()
        (agreed,) = broadcast_object_list([newest])
        if not all(gather_object([agreed is None or agreed.is_dir()])):
            raise InputError(
                f"checkpoint '{agreed}' is not there for every process; output must be a folder that all machines "
                "share (one that was just written may need a moment: run the same command again)"
            )
        return agreed

    def _save_trained(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        """accelerate's hook: in place of the whole model, what trains. (FSDP and DeepSpeed have written theirs.)"""
        while weights:
            weights.pop()
            if self._accelerator.is_main_process:
                model = self._accelerator.unwrap_model(models[0])
                trained = {name: value for name, value in model.named_parameters() if name in self._trained_names}
                save_file(
                    {name: value.detach().contiguous() for name, value in trained.items()},
                    _trained_weights_path(folder),
                )

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        while models:
            model = self._accelerator.unwrap_model(models.pop())
            stored = load_file(_trained_weights_path(folder))
            if stored.keys() != self._trained_names:
                raise InputError(f"checkpoint '{folder}' holds other parameters; choose another output folder")
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in stored:
                        parameter.copy_(stored[name])


def _trained_weights_path(folder: str) -> Path:
    return Path(folder) / TRAINED_WEIGHTS_FILE

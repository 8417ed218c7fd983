"""The state of a run on disk: trained weights, optimiser, moving average, progress; never the frozen base."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fantasytalking.errors import InputError
from fantasytalking.training.ema import MovingAverage
from fantasytalking.training.resume import Checkpoints, Progress, read_progress, write_progress

TRAINED_FILE = "trained.safetensors"
AVERAGE_FILE = "average.safetensors"


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
        checkpoints: Checkpoints,
        average: MovingAverage | None,
        trained: list[str],
    ) -> None:
        self._accelerator, self._model = accelerator, model
        self._checkpoints, self._average = checkpoints, average
        self._trained = set(trained)
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint under a temporary name and renames it when all processes are done. Every process."""
        accelerator, folder = self._accelerator, self._checkpoints.partial(progress.step)
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["exclude_frozen_parameters"] = True
        accelerator.save_state(str(folder), **options)
        if accelerator.is_main_process:
            if self._average is not None:
                save_file(self._average.state_dict(), folder / AVERAGE_FILE)
            write_progress(folder, progress)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._checkpoints.commit(progress.step)
        accelerator.wait_for_everyone()

    def load(self) -> Progress:
        """Goes back to the newest complete checkpoint; without one, a fresh Progress. Every process."""
        accelerator = self._accelerator
        if accelerator.is_main_process:
            self._checkpoints.clear_partial()
        accelerator.wait_for_everyone()
        folder = self._checkpoints.latest()
        if folder is None:
            return Progress()
        progress = read_progress(folder)
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["load_module_strict"] = False  # DeepSpeed's word for: the frozen base is not in there
        accelerator.load_state(str(folder), **options)
        accelerator.step = 0  # checkpoints lie between steps; what was counted went by the accumulation of then
        if self._average is not None:
            self._average.load_state_dict(load_file(folder / AVERAGE_FILE))
        return progress

    def whole(self) -> dict[str, Tensor]:
        """The whole model as it is to be used: the moving average where there is one. Every process.

        DeepSpeed trains half-precision weights with a float32 copy beside them; the copy is what was trained.
        """
        gathered = self._accelerator.get_state_dict(self._model)
        state: dict[str, Tensor] = dict(gathered or {})  # under ZeRO-3 only the main process is given it
        if self._average is not None:
            state.update(self._average.state_dict())
        elif self._accelerator.distributed_type is DistributedType.DEEPSPEED:
            from deepspeed.utils import safe_get_full_fp32_param

            for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
                if name in self._trained:
                    state[name] = safe_get_full_fp32_param(parameter).cpu()
        return state

    def _save_trained(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        """accelerate's hook: in place of the whole model, what trains. (FSDP and DeepSpeed have written theirs.)"""
        while weights:
            weights.pop()
            if self._accelerator.is_main_process:
                model = self._accelerator.unwrap_model(models[0])
                trained = {name: value for name, value in model.named_parameters() if name in self._trained}
                save_file({name: value.detach().contiguous() for name, value in trained.items()}, _file(folder))

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        while models:
            model = self._accelerator.unwrap_model(models.pop())
            stored = load_file(_file(folder))
            if stored.keys() != self._trained:
                raise InputError(f"checkpoint '{folder}' holds other parameters; choose another output folder")
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in stored:
                        parameter.copy_(stored[name])


def _file(folder: str) -> Path:
    return Path(folder) / TRAINED_FILE

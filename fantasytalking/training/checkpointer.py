"""Checkpoints of a run: trained weights, optimizer, moving average and progress, never the frozen base.

<output>/checkpoints/step-00000500/ is written as .step-00000500.partial and renamed when it is complete. The last N are
kept.
"""

import json
import os
import pickle
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint

from fantasytalking.common.agreement import errors_on_all
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import apply_umask, report_write_errors
from fantasytalking.common.text_files import read_json
from fantasytalking.training.ema import EMAModel
from fantasytalking.training.sharded_state import (
    TRAINED_SHARDS_FOLDER,
    gather_tensors,
    load_trained_shards,
    save_trained_shards,
)

PROGRESS_FILE = "progress.json"
TRAINED_WEIGHTS_FILE = "trained.safetensors"
EMA_WEIGHTS_FILE = "average.safetensors"
EMA_SHARDS_FOLDER = "average"
"""In place of `EMA_WEIGHTS_FILE` under FSDP: a distributed checkpoint of torch, with a part of every process."""
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")

_CHECKPOINT_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError),
    *(AssertionError, pickle.UnpicklingError, struct.error, SafetensorError),
)
"""Errors of torch, accelerate and safetensors for files of a checkpoint that are damaged or missing."""


@dataclass
class TrainingProgress:
    """State of a run besides weights and optimizer. The field names are the keys of progress.json."""

    step: int = 0
    """Completed steps."""
    bad: dict[str, str] = field(default_factory=dict)
    """Reason by name of each clip that could not be read."""
    seconds: float = 0.0
    """Training time in seconds."""
    skipped_in_a_row: int = 0
    """Last steps without an update, since the loss or the gradient was not finite."""
    layout: str = ""
    """Parallelism of the run that wrote the checkpoint, as far as its files depend on it; "" if unknown."""

    def save(self, folder: Path) -> None:
        """Writes progress.json into a checkpoint."""
        (folder / PROGRESS_FILE).write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TrainingProgress":
        """Reads progress.json of a checkpoint.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            return cls(**read_json(folder / PROGRESS_FILE))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"checkpoint '{folder}' is damaged ({error}); remove it to resume from the previous one",
                code=ErrorCode.malformed_file,
                field=PROGRESS_FILE,
                value=str(folder),
            ) from error


class CheckpointManager:
    """Checkpoint folders of one run."""

    def __init__(self, output: Path, keep_last_n: int) -> None:
        self._folder = output / "checkpoints"
        self._keep_last_n = keep_last_n

    def latest(self) -> Path | None:
        """Returns the newest complete checkpoint, or None."""
        complete = self._complete()
        return complete[-1] if complete else None

    def of_step(self, step: int) -> Path:
        """Returns the complete checkpoint of a step; an `InputError` names the steps that have one."""
        steps = {int(path.name.removeprefix("step-")): path for path in self._complete()}
        if step not in steps:
            raise InputError(
                f"'{self._folder}' has no checkpoint of step {step}; it has {', '.join(map(str, steps)) or 'none'}",
                code=ErrorCode.missing_file,
                field="--step",
                value=step,
            )
        return steps[step]

    def partial_path(self, step: int) -> Path:
        """Returns the folder in which the checkpoint of `step` is written."""
        return self._folder / f".step-{step:08d}.partial"

    def required_bytes(self, checkpoint_bytes: int) -> int:
        """Returns the free disk space that all kept checkpoints and one in writing need, in bytes.

        Args:
            checkpoint_bytes: size of one checkpoint.
        """
        kept, partial = _folder_bytes(self._complete()), _folder_bytes(self._folder.glob(".step-*.partial"))
        # Partial checkpoints are removed first.
        return max(0, max(checkpoint_bytes, (self._keep_last_n + 1) * checkpoint_bytes - kept) - partial)

    def remove_partial(self) -> None:
        """Removes the partial checkpoints of killed runs. Main process only."""
        for path in self._folder.glob(".step-*.partial"):
            shutil.rmtree(path)

    def commit(self, step: int) -> None:
        """Renames the complete checkpoint of `step` and removes the oldest ones. Main process only."""
        final = self._folder / f"step-{step:08d}"
        apply_umask(self.partial_path(step))
        if final.exists():
            shutil.rmtree(final)
        os.replace(self.partial_path(step), final)
        for path in self._complete()[: -self._keep_last_n]:
            # Renamed first, so that a kill during the removal leaves nothing that looks complete.
            doomed = path.with_name(f".{path.name}.partial")
            os.replace(path, doomed)
            shutil.rmtree(doomed)

    def _complete(self) -> list[Path]:
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(path for path in found if _CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir())


class RunState:
    """Saves and restores a run through accelerate, so that FSDP and DeepSpeed write their own shards.

    Args:
        model, optimizer: as prepared by `accelerator`.
        ema: moving average of the trained weights, or None.
        trained_names: names of the parameters that train.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        checkpoints: CheckpointManager,
        ema: EMAModel | None,
        trained_names: list[str],
    ) -> None:
        self._accelerator, self._model, self._optimizer = accelerator, model, optimizer
        self._checkpoints, self._ema = checkpoints, ema
        self._trained_names = set(trained_names)
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, progress: TrainingProgress) -> None:
        """Writes a checkpoint under a temporary name and renames it when it is complete. Call on every process.

        Raises:
            InputError: the disk is full, read-only or failing.
        """
        accelerator, folder = self._accelerator, self._checkpoints.partial_path(progress.step)
        with errors_on_all(), report_write_errors(folder):
            if accelerator.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        progress.layout = self._parallelism()
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["exclude_frozen_parameters"] = True
        with errors_on_all(), report_write_errors(folder):
            if accelerator.distributed_type is DistributedType.FSDP:
                save_trained_shards(self._model, self._optimizer.optimizer, folder)
            else:
                accelerator.save_state(str(folder), **options)
            if self._ema is not None and self._ema.is_sharded:
                distributed_checkpoint.save(self._ema.state_dict(), checkpoint_id=folder / EMA_SHARDS_FOLDER)
        with errors_on_all(), report_write_errors(folder):
            if accelerator.is_main_process:
                if self._ema is not None and not self._ema.is_sharded:
                    save_file(self._ema.state_dict(), folder / EMA_WEIGHTS_FILE)
                progress.save(folder)
        accelerator.wait_for_everyone()
        with errors_on_all(), report_write_errors(folder):
            if accelerator.is_main_process:
                self._checkpoints.commit(progress.step)
        accelerator.wait_for_everyone()

    def load(self) -> TrainingProgress:
        """Restores the newest complete checkpoint, if there is one. Call on every process.

        Raises:
            InputError: the checkpoint was written under another parallelism, or is not visible to every process.
        """
        accelerator = self._accelerator
        if accelerator.is_main_process:
            self._checkpoints.remove_partial()
        accelerator.wait_for_everyone()
        folder = self._latest_checkpoint()
        if folder is None:
            return TrainingProgress()
        with errors_on_all():
            progress = TrainingProgress.load(folder)
            self._check_parallelism(folder, progress)
        options: dict[str, Any] = {}
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            options["load_module_strict"] = False  # the checkpoint leaves out the frozen base
        with _reading_checkpoint(folder):
            if (folder / TRAINED_SHARDS_FOLDER).is_dir():
                load_trained_shards(self._model, self._optimizer.optimizer, folder)
            else:  # under FSDP, a checkpoint of an earlier release
                accelerator.load_state(str(folder), **options)
            if self._ema is not None and self._ema.is_sharded:
                distributed_checkpoint.load(
                    self._ema.state_dict(), checkpoint_id=folder / EMA_SHARDS_FOLDER
                )  # in place
            elif self._ema is not None:
                self._ema.load_state_dict(load_file(folder / EMA_WEIGHTS_FILE))
        accelerator.step = 0  # a count of micro-batches; checkpoints lie between steps
        return progress

    def full_state_dict(self, is_needed: Callable[[str], bool]) -> dict[str, Tensor]:
        """Returns the model's tensors by name, with the moving average in place of the trained weights if there is one.

        Call on every process; only the main process gets all tensors.

        Args:
            is_needed: whether the parameter of a name is needed; sharded parameters are gathered only then.
        """
        if self._accelerator.distributed_type is DistributedType.DEEPSPEED:
            state = self._deepspeed_state_dict(is_needed)
        elif self._accelerator.distributed_type is DistributedType.FSDP:
            state = gather_tensors(self._model, is_needed, keep=self._accelerator.is_main_process)
        else:
            state = dict(self._accelerator.get_state_dict(self._model) or {})
        if self._ema is not None:
            state.update(self._ema.full_state_dict())
        return state

    def _deepspeed_state_dict(self, is_needed: Callable[[str], bool]) -> dict[str, Tensor]:
        """Gathers one parameter after another, on the main process only (accelerate copies the model on every process).

        DeepSpeed trains a float32 copy of half-precision weights; the copy is returned.
        """
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        state: dict[str, Tensor] = {}
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            if not is_needed(name):
                continue
            trained = name in self._trained_names
            with GatheredParameters([] if trained else [parameter]):  # no effect on parameters that are not sharded
                value = safe_get_full_fp32_param(parameter) if trained else parameter.detach()
                if self._accelerator.is_main_process:
                    state[name] = value.cpu().clone()
        return state

    def _check_parallelism(self, folder: Path, progress: TrainingProgress) -> None:
        if progress.layout and progress.layout != self._parallelism():
            raise InputError(
                f"checkpoint '{folder}' was written under {progress.layout}, but this run is {self._parallelism()}; "
                "launch it as before, or choose another output folder (stage.init_from starts from an adapter)",
                code=ErrorCode.conflict,
                field="layout",
                value=progress.layout,
            )

    def _parallelism(self) -> str:
        """Name of the parallelism, as far as a checkpoint's files depend on it."""
        accelerator = self._accelerator
        if accelerator.distributed_type is DistributedType.FSDP:
            return "FSDP"
        if accelerator.distributed_type is DistributedType.DEEPSPEED:
            stage = accelerator.state.deepspeed_plugin.zero_stage
            return f"ZeRO-{stage} on {accelerator.num_processes} processes"
        return "one process or DDP"

    def _latest_checkpoint(self) -> Path | None:
        """Returns the newest checkpoint of the main process, which every process must see.

        Raises:
            InputError: a process does not.
        """
        newest = self._checkpoints.latest()
        (agreed,) = broadcast_object_list([newest])
        if not all(gather_object([agreed is None or agreed.is_dir()])):
            raise InputError(
                f"checkpoint '{agreed}' is not visible to every process; output must be a folder that all machines "
                "share (a new checkpoint may need a moment to appear: run the same command again)",
                code=ErrorCode.missing_file,
                field="output",
                value=str(agreed),
            )
        return agreed

    def _save_trained(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        """accelerate's hook: saves the trained weights in place of the model. FSDP and DeepSpeed pass no weights."""
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
                raise InputError(
                    f"checkpoint '{folder}' has other trained parameters than this run; choose another output folder",
                    code=ErrorCode.shape_mismatch,
                    field=TRAINED_WEIGHTS_FILE,
                    value=folder,
                )
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in stored:
                        parameter.copy_(stored[name])


def _folder_bytes(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def estimate_checkpoint_bytes(model: nn.Module, has_ema: bool) -> int:
    """Returns the bytes of a checkpoint: weights of what trains, two moments and, with `has_ema`, the average."""
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return trained * (4 if has_ema else 3) * 4


def check_output_writable(output: Path, required_bytes: int) -> None:
    """Creates the output folder and validates that it is writable and has `required_bytes` of free disk space.

    Raises:
        InputError: the folder cannot be written, or the disk is too full.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise InputError(
            f"output '{output}' cannot be written: {error.strerror}; choose another folder",
            code=ErrorCode.output_exists,
            field="output",
            value=str(output),
        ) from error
    free = shutil.disk_usage(output).free
    if free < required_bytes:
        raise InputError(
            f"output '{output}' has {free / 2**30:.2f} GiB free, but the checkpoints need "
            f"{required_bytes / 2**30:.2f}; free some, choose another folder or lower checkpoints.keep_last_n",
            code=ErrorCode.insufficient_resources,
            field="output",
            value=str(output),
        )


@contextmanager
def _reading_checkpoint(folder: Path) -> Iterator[None]:
    """Reports every error of reading a checkpoint's files, which accelerate and torch leave as they come.

    Raises:
        InputError: a file is missing or damaged, or does not fit this run.
    """
    try:
        yield
    except (InputError, torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except _CHECKPOINT_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"checkpoint '{folder}' cannot be read ({reason}); remove it to resume from the previous one",
            code=ErrorCode.malformed_file,
            field="checkpoint",
            value=str(folder),
        ) from error


def _trained_weights_path(folder: str) -> Path:
    return Path(folder) / TRAINED_WEIGHTS_FILE

"""Runs tasks that can be killed at any moment and resumed, divided between processes.

Every task writes one small JSON file atomically; a task whose file exists is done. The file depends on the task alone,
so that neither interruptions nor the number of processes change the result.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.text_files import read_json

_LEFTOVER = re.compile(r"\..+\.(json|jsonl|yaml|png|safetensors)\.[a-z0-9_]{8}")


class ProcessState(Protocol):
    """The part of accelerate's `PartialState` that dividing work needs."""

    process_index: int
    num_processes: int
    is_main_process: bool

    def wait_for_everyone(self) -> None:
        """Returns once every process has called it."""


class NamedTask(Protocol):
    """A task whose name is a valid file name, unique, and the same in every run."""

    @property
    def name(self) -> str: ...


TaskT = TypeVar("TaskT", bound=NamedTask)


@dataclass(frozen=True)
class TaskStage(Generic[TaskT]):
    """One kind of task: the folder of its results and the function that runs it."""

    title: str
    """Label of the progress bar."""
    folder: Path
    run_task: Callable[[TaskT], dict[str, Any]]

    def result_path(self, task: TaskT) -> Path:
        """Returns the path of a task's result. The first two letters of its name select a subfolder."""
        return self.folder / task.name[:2] / f"{task.name}.json"

    def run(self, tasks: Sequence[TaskT], process_state: ProcessState) -> None:
        """Runs this process's part of the tasks that are not done yet, and waits for the other processes."""
        own_tasks = tasks[process_state.process_index :: process_state.num_processes]
        left = [task for task in own_tasks if not self.result_path(task).is_file()]
        bar = tqdm(
            left,
            desc=self.title,
            unit=" items",
            initial=len(own_tasks) - len(left),
            total=len(own_tasks),
            smoothing=0.05,
            disable=not process_state.is_main_process,
            dynamic_ncols=True,
        )
        for task in bar:
            result = self.run_task(task)
            with atomic_write(self.result_path(task)) as temporary:
                temporary.write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        process_state.wait_for_everyone()

    def result(self, task: TaskT) -> dict[str, Any]:
        """Returns the result of a finished task.

        Raises:
            InputError: its file is damaged or missing.
        """
        path = self.result_path(task)
        try:
            return read_json(path)
        except InputError as error:
            raise InputError(
                f"'{path}' is damaged or missing; delete it and run the preparation again",
                code=ErrorCode.malformed_file,
                field=self.title,
                value=str(path),
            ) from error


def open_output_folder(folder: Path, fingerprint: str, encoders: Mapping[str, str] | None = None) -> None:
    """Claims `folder` for a run with these settings, and removes partial files of an earlier, killed run.

    Args:
        folder: output folder of the run.
        fingerprint: hash of the settings.
        encoders: fingerprints of the encoders, by name.

    Raises:
        InputError: the folder holds other files, or belongs to a run with other settings or encoders.
    """
    mark = folder / "progress" / "settings.json"
    if mark.is_file():
        if read_json(mark) != {"fingerprint": fingerprint}:
            raise InputError(
                f"output '{folder}' was started with other settings; choose another folder, delete this one, or use "
                "the settings in its data.yaml",
                code=ErrorCode.output_exists,
                field="output",
                value=str(folder),
            )
    elif folder.is_dir() and _foreign_entries(folder):
        raise InputError(
            f"output '{folder}' holds other files; choose an empty or new folder",
            code=ErrorCode.output_exists,
            field="output",
            value=str(folder),
        )
    known = mark.with_name("encoders.json")
    begun = read_json(known) if known.is_file() else {}
    for name, found in (encoders or {}).items():
        if begun.get(name, found) != found:
            raise InputError(
                f"output '{folder}' was started with another {name}, whose features do not match; restore that "
                f"{name}, or choose another folder",
                code=ErrorCode.conflict,
                field=name,
                value=str(folder),
            )
    with atomic_write(mark) as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
    with atomic_write(known) as temporary:
        temporary.write_text(json.dumps({**begun, **(encoders or {})}), encoding="utf-8")
    for leftover in [*folder.glob(".*"), *folder.glob("features/*/.*"), *folder.glob("progress/**/.*")]:
        if leftover.is_dir() and _LEFTOVER.fullmatch(leftover.name):
            shutil.rmtree(leftover)


def _foreign_entries(folder: Path) -> list[Path]:
    """Returns the entries that no run of this package wrote."""
    ours = [entry.name == "progress" or _LEFTOVER.fullmatch(entry.name) for entry in folder.iterdir()]
    return [entry for entry, known in zip(folder.iterdir(), ours, strict=True) if not known]

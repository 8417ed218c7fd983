"""Runs tasks that can be killed at any moment and resumed, divided between processes.

Every task writes one small JSON file atomically; a task whose file exists is done. The file depends on the task alone,
so that neither interruptions nor the number of processes change the result. Processes take tasks one by one, each under
a lock that ends with its holder: there are no shares to wait for, and the task of a process that died is taken over.
"""

import json
import logging
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.locks import RUN_LOCK_FILE, LocksUnsupportedError, try_lock
from fantasytalking.common.text_files import read_json

LEASES_FOLDER = "leases"
"""Folder beside those of the results: a lock file per task that a process works on."""
_WAIT_SECONDS = 0.5

logger = logging.getLogger(__name__)

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
    is_current: Callable[[TaskT, dict[str, Any]], bool] | None = None
    """Whether a stored result still holds, so that the task need not run again; None: results always hold."""

    def result_path(self, task: TaskT) -> Path:
        """Returns the path of a task's result. The first two letters of its name select a subfolder."""
        return self.folder / task.name[:2] / f"{task.name}.json"

    def run(self, tasks: Sequence[TaskT], process_state: ProcessState) -> None:
        """Runs the tasks that are not done yet, together with the other processes; returns once all are done."""
        left = [task for task in tasks if not self._is_done(task)]
        bar = tqdm(
            desc=self.title,
            unit=" items",
            initial=len(tasks) - len(left),
            total=len(tasks),
            smoothing=0.05,
            disable=not process_state.is_main_process,
            dynamic_ncols=True,
        )
        # Processes begin at different places, so that they seldom try for the same task.
        begin = len(left) * process_state.process_index // process_state.num_processes
        left = left[begin:] + left[:begin]
        with bar:
            while left:
                waiting = [task for task in left if not self._run_unless_taken(task, process_state)]
                bar.update(len(left) - len(waiting))
                if len(waiting) == len(left):
                    time.sleep(_WAIT_SECONDS)
                left = waiting

    def _run_unless_taken(self, task: TaskT, process_state: ProcessState) -> bool:
        """Runs a task unless it is done or another process works on it; returns whether it is done."""
        alone = process_state.num_processes == 1
        if not alone and self._is_done(task):
            return True
        release = _keep if alone else self._take(task, process_state)
        if release is None:
            return False
        try:
            if alone or not self._is_done(task):  # another process may have finished it meanwhile
                result = self.run_task(task)
                atomic_write_text(self.result_path(task), json.dumps(result, ensure_ascii=False, allow_nan=False))
        finally:
            release()
        return True

    def _take(self, task: TaskT, process_state: ProcessState) -> Callable[[], None] | None:
        """Takes a task; returns what gives it back, or None if another process has it."""
        path = self.folder.parent / LEASES_FOLDER / f"{task.name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = try_lock(path)
        except FileNotFoundError:  # all is done, and the main process has removed the folder
            return None
        except LocksUnsupportedError:
            _warn_of_fixed_shares(self.folder)
            own = zlib.crc32(task.name.encode()) % process_state.num_processes == process_state.process_index
            return _keep if own else None
        return None if lock is None else lock.release

    def is_done(self, tasks: Iterable[TaskT]) -> bool:
        """Whether every task has a result that can be read and still holds."""
        return all(map(self._is_done, tasks))

    def _is_done(self, task: TaskT) -> bool:
        """Whether a task has a result that can be read and still holds; others are replaced."""
        if not self.result_path(task).is_file():
            return False
        try:
            result = self.result(task)
        except InputError:
            return False
        return self.is_current is None or self.is_current(task, result)

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


def _keep() -> None:
    """Gives back what no other process can take."""


@cache
def _warn_of_fixed_shares(folder: Path) -> None:
    logger.warning(
        f"the file system of '{folder}' has no locks: every process does a fixed share, and nobody takes over that of "
        "one that dies"
    )


def remove_leases(progress: Path) -> None:
    """Removes the lock files of killed processes; to be called by one process when every task is done."""
    shutil.rmtree(progress / LEASES_FOLDER, ignore_errors=True)


def begun_fingerprint(folder: Path) -> str | None:
    """Returns the hash of the settings with which a run began in `folder`; None if none did."""
    mark = _settings_mark(folder)
    return str(read_json(mark).get("fingerprint")) if mark.is_file() else None


def check_output_folder(folder: Path, fingerprint: str, encoders: Mapping[str, str] | None = None) -> dict[str, str]:
    """Validates that `folder` is new, or belongs to a run with these settings and encoders; writes nothing.

    Args:
        folder: output folder of the run.
        fingerprint: hash of the settings.
        encoders: fingerprints of the encoders, by name.

    Returns:
        The fingerprints of the encoders of the run so far.

    Raises:
        InputError: the folder holds other files, or belongs to a run with other settings or encoders.
    """
    begun_with = begun_fingerprint(folder)
    if begun_with is not None:
        if begun_with != fingerprint:
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
    known = _encoders_mark(folder)
    begun: dict[str, str] = read_json(known) if known.is_file() else {}
    for name, found in (encoders or {}).items():
        if begun.get(name, found) != found:
            raise InputError(
                f"output '{folder}' was started with another {name}, whose features do not match; restore that "
                f"{name}, or choose another folder",
                code=ErrorCode.conflict,
                field=name,
                value=str(folder),
            )
    return begun


def open_output_folder(folder: Path, fingerprint: str, encoders: Mapping[str, str] | None = None) -> None:
    """Claims `folder` for a run with these settings, and removes partial files of an earlier, killed run.

    To be called while `lock_output` holds the folder, so that no other run writes these files.

    Args:
        folder, fingerprint, encoders: as in `check_output_folder`.

    Raises:
        InputError: as `check_output_folder`.
    """
    begun = check_output_folder(folder, fingerprint, encoders)
    atomic_write_text(_settings_mark(folder), json.dumps({"fingerprint": fingerprint}))
    atomic_write_text(_encoders_mark(folder), json.dumps({**begun, **(encoders or {})}))
    for leftover in [*folder.glob(".*"), *folder.glob("features/*/.*"), *folder.glob("progress/**/.*")]:
        if leftover.is_dir() and _LEFTOVER.fullmatch(leftover.name):
            shutil.rmtree(leftover)


def _settings_mark(folder: Path) -> Path:
    return folder / "progress" / "settings.json"


def _encoders_mark(folder: Path) -> Path:
    return folder / "progress" / "encoders.json"


def _foreign_entries(folder: Path) -> list[Path]:
    """Returns the entries that no run of this package wrote."""
    ours = [entry.name in ("progress", RUN_LOCK_FILE) or _LEFTOVER.fullmatch(entry.name) for entry in folder.iterdir()]
    return [entry for entry, known in zip(folder.iterdir(), ours, strict=True) if not known]

"""Work that can be killed at any moment and taken up again, shared out between processes.

Every task leaves one small JSON file, put in place whole. A task whose file is there is done; what a file says depends
on the task alone, so that neither interruptions nor the number of processes can be seen in the result.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.tensor_io import read_json

_LEFTOVER = re.compile(r"\..+\.(json|jsonl|yaml|png|safetensors)\.[a-z0-9_]{8}")


class ProcessState(Protocol):
    """What accelerate's PartialState tells of the processes of a run."""

    process_index: int
    num_processes: int
    is_main_process: bool

    def wait_for_everyone(self) -> None:
        """Returns when every process has come here."""


class NamedTask(Protocol):
    """A task has a name that is a file name, unique and the same in every run."""

    @property
    def name(self) -> str: ...


TaskT = TypeVar("TaskT", bound=NamedTask)


@dataclass(frozen=True)
class TaskStage(Generic[TaskT]):
    """One kind of task: where its results stand and how one is done."""

    title: str
    """For the progress bar."""
    folder: Path
    run_task: Callable[[TaskT], dict[str, Any]]

    def result_path(self, task: TaskT) -> Path:
        """The file of a task's result. The first two letters of a name choose among 256 folders or fewer."""
        return self.folder / task.name[:2] / f"{task.name}.json"

    def run(self, tasks: Sequence[TaskT], process_state: ProcessState) -> None:
        """Does this process's share of the tasks that are not done yet, and waits for the others."""
        share = tasks[process_state.process_index :: process_state.num_processes]
        left = [task for task in share if not self.result_path(task).is_file()]
        bar = tqdm(
            left, desc=self.title, unit=" items", initial=len(share) - len(left), total=len(share), smoothing=0.05,
            disable=not process_state.is_main_process, dynamic_ncols=True,
        )  # fmt: skip
        for task in bar:
            result = self.run_task(task)
            with atomic_write(self.result_path(task)) as temporary:
                temporary.write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        process_state.wait_for_everyone()

    def result(self, task: TaskT) -> dict[str, Any]:
        """What a finished task left.

        Raises:
            InputError: its file is damaged or gone.
        """
        path = self.result_path(task)
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"'{path}' is damaged or gone; delete it and run the preparation again") from error
        assert isinstance(result, dict)
        return result


def open_output_folder(folder: Path, fingerprint: str, encoders: Mapping[str, str] | None = None) -> None:
    """Makes `folder` the place of a run with these settings, and clears what an earlier, killed run left half-written.

    Args:
        encoders: fingerprints of what makes features, by name.

    Raises:
        InputError: the folder holds other things, or was made with other settings or encoders.
    """
    mark = folder / "progress" / "settings.json"
    if mark.is_file():
        if mark.read_text(encoding="utf-8") != json.dumps({"fingerprint": fingerprint}):
            raise InputError(
                f"output '{folder}' was begun with other settings; choose another folder, delete this one, or go back "
                "to the settings in its data.yaml"
            )
    elif folder.is_dir() and _foreign_entries(folder):
        raise InputError(f"output '{folder}' holds other things; choose an empty or new folder")
    known = mark.with_name("encoders.json")
    begun = read_json(known) if known.is_file() else {}
    for name, found in (encoders or {}).items():
        if begun.get(name, found) != found:
            raise InputError(
                f"output '{folder}' was begun with another {name}, whose features do not go with this one's; put it "
                "back, or choose another folder"
            )
    with atomic_write(mark) as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
    with atomic_write(known) as temporary:
        temporary.write_text(json.dumps({**begun, **(encoders or {})}), encoding="utf-8")
    for leftover in [*folder.glob(".*"), *folder.glob("features/*/.*"), *folder.glob("progress/**/.*")]:
        if leftover.is_dir() and _LEFTOVER.fullmatch(leftover.name):
            shutil.rmtree(leftover)


def _foreign_entries(folder: Path) -> list[Path]:
    """What neither a run that was killed at its very beginning nor anything else of ours has left."""
    ours = [entry.name == "progress" or _LEFTOVER.fullmatch(entry.name) for entry in folder.iterdir()]
    return [entry for entry, known in zip(folder.iterdir(), ours, strict=True) if not known]

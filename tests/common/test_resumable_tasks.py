"""Tasks that survive kills: each done once, shared out completely, left-overs cleared."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fantasytalking.common import resumable_tasks
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.locks import LocksUnsupportedError
from fantasytalking.common.resumable_tasks import TaskStage, open_output_folder, remove_leases
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import FORK_SERVER, start_fork_server


@dataclass(frozen=True)
class Task:
    name: str


@dataclass
class Rank:
    process_index: int
    num_processes: int

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0

    def wait_for_everyone(self) -> None:
        pass


TASKS = [Task(f"{number:02d}-task") for number in range(11)]


def test_processes_share_the_tasks_and_repeat_none(tmp_path: Path) -> None:
    done: list[str] = []

    def work(task: Task) -> dict[str, str]:
        done.append(task.name)
        return {"name": task.name}

    stage = TaskStage("testing", tmp_path, work)
    for index in range(3):
        stage.run(TASKS, Rank(index, 3))
    assert sorted(done) == [task.name for task in TASKS]
    stage.run(TASKS, Rank(0, 1))
    assert len(done) == len(TASKS), "what is done is not done again, whoever did it"
    assert [stage.result(task)["name"] for task in TASKS] == [task.name for task in TASKS]


def share_tasks(folder: Path, index: int, dies: bool) -> None:
    """Works as one of two processes; logs each task before it ends, and stops within its second one if it `dies`."""
    count = 0

    def work(task: Task) -> dict[str, int]:
        nonlocal count
        count += 1
        (folder / f"{index}-{task.name}").touch()
        time.sleep(60 if dies and count == 2 else 0.02)
        return {"index": index}

    TaskStage("testing", folder / "progress" / "stage", work).run(TASKS, Rank(index, 2))


def test_a_process_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    start_fork_server()
    dying = FORK_SERVER.Process(target=share_tasks, args=(tmp_path, 0, True))
    dying.start()
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("0-*"))) < 2:
        assert time.monotonic() < deadline and dying.is_alive()
        time.sleep(0.02)
    other = FORK_SERVER.Process(target=share_tasks, args=(tmp_path, 1, False))
    other.start()
    while len(list(tmp_path.glob("1-*"))) < len(TASKS) - 2:
        assert time.monotonic() < deadline and other.is_alive()
        time.sleep(0.02)
    dying.kill()
    other.join(120)
    assert other.exitcode == 0
    stage: TaskStage[Task] = TaskStage("testing", tmp_path / "progress" / "stage", lambda task: {})
    assert [stage.result(task)["index"] for task in TASKS] == [0] + [1] * (len(TASKS) - 1)
    assert sorted(path.name for path in tmp_path.glob("*-task")) == sorted(
        [f"0-{task.name}" for task in TASKS[:2]] + [f"1-{task.name}" for task in TASKS[1:]]
    ), "each task is done once, and the one within which a process was killed again"
    remove_leases(tmp_path / "progress")
    assert [path.name for path in (tmp_path / "progress").iterdir()] == ["stage"]


def test_without_locks_every_process_does_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(path: Path) -> None:
        raise LocksUnsupportedError

    monkeypatch.setattr(resumable_tasks, "try_lock", no_locks)
    done: dict[int, list[str]] = {0: [], 1: []}

    def run(index: int) -> None:
        def work(task: Task) -> dict[str, str]:
            done[index].append(task.name)
            return {}

        TaskStage("testing", tmp_path / "stage", work).run(TASKS, Rank(index, 2))

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done[0] + done[1]) == [task.name for task in TASKS] and done[0] and done[1]


def test_an_error_leaves_what_was_done(tmp_path: Path) -> None:
    def work(task: Task) -> dict[str, str]:
        if task is TASKS[4]:
            raise RuntimeError("pulled the plug")
        return {}

    stage = TaskStage("testing", tmp_path, work)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        stage.run(TASKS, Rank(0, 1))
    assert [stage.result_path(task).is_file() for task in TASKS] == [True] * 4 + [False] * 7


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    stage: TaskStage[Task] = TaskStage("testing", tmp_path, lambda task: {})
    stage.run(TASKS[:1], Rank(0, 1))
    stage.result_path(TASKS[0]).write_text("{")
    with raises_input_error(ErrorCode.malformed_file, "testing", str(stage.result_path(TASKS[0]))):
        stage.result(TASKS[0])


def test_a_folder_is_taken_up_again_only_with_the_same_settings(tmp_path: Path) -> None:
    open_output_folder(tmp_path / "out", "one")
    open_output_folder(tmp_path / "out", "one")
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path / "out")):
        open_output_folder(tmp_path / "out", "two")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path)):
        open_output_folder(tmp_path, "one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_half_written_files_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    open_output_folder(tmp_path, "one")
    killed = [tmp_path / ".manifest.jsonl.ab12cd_9", tmp_path / "features" / "ab" / ".x.safetensors.00000000"]
    killed.append(tmp_path / "progress" / "clips" / "ab" / ".x.json.zzzzzzzz")
    kept = [tmp_path / ".git", tmp_path / "features" / "ab" / "kept", tmp_path / ".notes.json.draft"]
    for folder in killed + kept:
        folder.mkdir(parents=True)
        (folder / "part").touch()
    open_output_folder(tmp_path, "one")
    assert not any(folder.exists() for folder in killed)
    assert all((folder / "part").is_file() for folder in kept)

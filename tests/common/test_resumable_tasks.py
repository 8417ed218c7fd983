"""Tasks that survive kills: each done once, shared out completely, left-overs cleared."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.resumable_tasks import TaskStage, open_output_folder
from tests.helpers.errors import raises_input_error


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

"""Launched processes are connected, and launches that start fewer than were asked for are refused."""

import os
from multiprocessing.queues import SimpleQueue

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.processes import WORLD_SIZE_VARIABLES, connect_processes, launched_processes
from tests.app.conftest import free_port
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.helpers.paths import ROOT

SINGLE = ["--config_file", str(ROOT / "configs" / "accelerate" / "single.yaml")]


def set_environment_of_launch(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """The environment in which `accelerate launch` with these options starts the only process."""
    for name in (*WORLD_SIZE_VARIABLES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*options, "script.py"]))
    _, environment = prepare_simple_launcher_cmd_env(arguments)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("options", [["--cpu", "--num_processes", "2"], [*SINGLE, "--num_processes", "2"]])
def test_a_launch_that_starts_one_process_in_place_of_two_raises(options: list[str], monkeypatch: pytest.MonkeyPatch):
    set_environment_of_launch(monkeypatch, *options)
    with raises_input_error(ErrorCode.unsupported, "--num_processes", 1) as caught:
        launched_processes()
    assert "--config_file configs/accelerate/ddp.yaml --num_processes 2" in str(caught.value)


@pytest.mark.parametrize("options", [["--cpu"], SINGLE, ["--cpu", "--num_processes", "1"]])
def test_a_launch_of_one_process_is_one(options: list[str], monkeypatch: pytest.MonkeyPatch):
    set_environment_of_launch(monkeypatch, *options)
    assert launched_processes() == 1


def connect_rank(rank: int, port: int, answer: SimpleQueue) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="")
    state = connect_processes(cpu=False)  # as with device=auto
    answer.put((state.process_index, state.num_processes))
    state.destroy_process_group()


def test_without_a_gpu_two_processes_divide_the_work():
    start_fork_server()
    answer, port = FORK_SERVER.SimpleQueue(), free_port()
    processes = [FORK_SERVER.Process(target=connect_rank, args=(rank, port, answer)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    assert sorted(answer.get() for _ in processes) == [(0, 2), (1, 2)]

"""Connects the processes that a launcher started, and refuses launches that start fewer than were asked for."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from fantasytalking.common.errors import ErrorCode, InputError

if TYPE_CHECKING:
    from accelerate import PartialState

WORLD_SIZE_VARIABLES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which torchrun, accelerate and MPI state the number of processes."""
LAUNCH_EXAMPLE = "accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 2"


def connect_processes(*, cpu: bool, timeout: timedelta = timedelta(days=14)) -> "PartialState":
    """Returns accelerate's state of the launched processes, which divide work between them.

    Args:
        cpu: whether the run uses the CPU; without a GPU it always does.
        timeout: how long a process waits for the others: one may have hours of work more than another.

    Raises:
        InputError: fewer processes are connected than were asked for.
    """
    import torch
    from accelerate import PartialState

    launched = launched_processes()
    # Without a GPU accelerate connects processes only with cpu=True.
    state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=timeout)
    check_all_connected(launched, state.num_processes)
    return state


def launched_processes() -> int:
    """Returns the number of processes that the launcher started, this one included.

    Raises:
        InputError: `accelerate launch` was asked for several processes and started this one alone.
    """
    sizes = [os.environ[name] for name in WORLD_SIZE_VARIABLES if os.environ.get(name)]
    if not sizes:
        _check_not_simple_launcher()
    return int(sizes[0]) if sizes else 1


def check_all_connected(launched: int, connected: int) -> None:
    """Validates that all launched processes work together.

    Raises:
        InputError: they do not; each would do everything.
    """
    if connected != launched:
        raise InputError(
            f"{launched} processes were launched, but accelerate connects {connected}; without a GPU only DDP "
            f"connects processes: launch one, or use {LAUNCH_EXAMPLE}",
            code=ErrorCode.unsupported,
            field="--num_processes",
            value=launched,
        )


def _check_not_simple_launcher() -> None:
    """accelerate starts one process, whatever --num_processes says, if its configuration is not a distributed one or
    --cpu is given. It then sets the address of a main process, but neither rank nor world size."""
    if all(os.environ.get(name) for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT")):
        raise InputError(
            "accelerate launch was asked for several processes but started one, as it does with --cpu or without a "
            f"distributed configuration; use {LAUNCH_EXAMPLE}, or --num_processes 1 (and unset MASTER_ADDR if you set "
            "it yourself)",
            code=ErrorCode.unsupported,
            field="--num_processes",
            value=1,
        )

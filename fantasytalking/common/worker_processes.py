"""Pools of worker processes that share their imports."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def worker_pool(
    processes: int, module: str, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Returns a pool whose processes start from a clean interpreter.

    Where the system has fork servers, `module`, that of the functions to run, is imported once for all processes;
    elsewhere each imports it. A server that already runs is used as it is.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([module])
        return ProcessPoolExecutor(processes, context, initializer, initargs)
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer, initargs)

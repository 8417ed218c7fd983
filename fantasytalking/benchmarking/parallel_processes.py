"""Timing of the same work in several processes that start together."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

MEASUREMENT_TIMEOUT = 600.0
"""Seconds after which waiting for a process fails."""

PrepareWork = Callable[[Path], Callable[[], object]]
"""Top-level function that reads the inputs from a path and returns the work that is timed."""


def time_in_processes(prepare: PrepareWork, path: Path, num_processes: int, rounds: int) -> float:
    """Returns the median seconds in which each of several processes, with one thread each, does the work once."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_processes + 1), context.Queue()
    arguments = (prepare, path, rounds, barrier, results)
    workers = [context.Process(target=_run_worker, args=arguments, daemon=True) for _ in range(num_processes)]
    for worker in workers:
        worker.start()
    seconds = []
    for _ in range(rounds):
        barrier.wait(MEASUREMENT_TIMEOUT)
        start = time.perf_counter()
        for _ in workers:
            results.get(timeout=MEASUREMENT_TIMEOUT)
        seconds.append(time.perf_counter() - start)
    for worker in workers:
        worker.join()
    return statistics.median(seconds)


def _run_worker(prepare: PrepareWork, path: Path, rounds: int, barrier: Barrier, results: "Queue[bool]") -> None:
    torch.set_num_threads(1)
    work = prepare(path)
    work()  # builds graphs and warms up memory
    for _ in range(rounds):
        barrier.wait(MEASUREMENT_TIMEOUT)
        work()
        results.put(True)

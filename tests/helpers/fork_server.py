"""Processes for tests that kill them or run several: they begin with the imports done, once for all tests of a run.

The list is one, since Python has one fork server and the last list that it is given counts.
"""

from collections.abc import Callable
from functools import cache
from multiprocessing import get_context

FORK_SERVER = get_context("forkserver")
MODULES = [
    "wandb",  # first: its import goes through all modules that are loaded, many times
    "fantasytalking.training.trainer",
    "fantasytalking.data.prepare.preparation",
    "fantasytalking.pipeline.pipeline",
    "fantasytalking.evaluation.runner",
    "fantasytalking.portrait_world.corpus.clip_corpus",
    "deepspeed",  # which accelerate imports as soon as it unwraps a model
]


@cache
def start_fork_server() -> None:
    """Lets the fork server do its imports before the first process of it is used, so that no measured time includes
    them, and before the package asks for one with fewer."""
    FORK_SERVER.set_forkserver_preload(MODULES)
    process = FORK_SERVER.Process(target=int)
    process.start()
    process.join(200)
    assert process.exitcode == 0


def run_in_fork(target: Callable[..., object], *arguments: object) -> None:
    """Runs `target` on one thread in a process of the fork server, which must end well."""
    start_fork_server()
    process = FORK_SERVER.Process(target=_run_on_one_thread, args=(target, arguments))
    process.start()
    process.join(200)
    assert process.exitcode == 0


def _run_on_one_thread(target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    target(*arguments)

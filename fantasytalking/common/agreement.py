"""Lets the processes of a run agree on flags and errors, so that none waits for one that has stopped.

Every function is called on all processes, at the same point of the run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from fantasytalking.common.errors import InputError, ReportedElsewhereError


def flags_of_all(flags: Sequence[bool]) -> list[bool]:
    """Returns, for each flag, whether it is set on any process."""
    state = PartialState()
    if state.num_processes == 1:
        return list(flags)
    own = torch.tensor([int(flag) for flag in flags], device=state.device)
    return [count > 0 for count in reduce(own, reduction="sum").tolist()]


def raise_on_all(error: InputError | None) -> None:
    """Raises the first process's error on every process, if any has one.

    Raises:
        InputError: the error; a `ReportedElsewhereError` on every process but the main one.
    """
    state = PartialState()
    if state.num_processes > 1:
        if not flags_of_all([error is not None])[0]:
            return
        error = next(found for found in gather_object([error]) if found is not None)
        if not state.is_main_process:
            raise ReportedElsewhereError(str(error), code=error.code, field=error.field, value=error.value)
    if error is not None:
        raise error


@contextmanager
def errors_on_all() -> Iterator[None]:
    """Runs a block in which no process waits for another; an `InputError` of one is then raised on every process."""
    error: InputError | None = None
    try:
        yield
    except InputError as caught:
        error = caught
    raise_on_all(error)

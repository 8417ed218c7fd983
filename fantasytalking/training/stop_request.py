"""Notices the signals that announce the end of a job, so that a run can save its state first."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Sent by schedulers and launchers before they kill a job; SIGUSR1 by Slurm's --signal=USR1@SECONDS."""


class TrainingInterrupted(Exception):  # noqa: N818  (not an error: the run can be resumed)
    """Raised on every process of a run that a signal ended after its checkpoint was written.

    Args:
        step: the step of the checkpoint.
        signal_number: the signal; None if another process received it.
    """

    def __init__(self, step: int, signal_number: int | None) -> None:
        number = signal.SIGTERM if signal_number is None else signal_number
        name = signal.Signals(number).name
        super().__init__(f"{name}: stopped after step {step}, whose checkpoint is complete; run the command again")
        self.step, self.exit_code = step, 128 + number


class StopRequest:
    """Records stop signals within a `with` block; the previous handlers are restored afterwards.

    Outside of the main thread, where Python allows no handlers, signals keep their effect.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        """The first stop signal that was received."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python

    @property
    def is_set(self) -> bool:
        """Whether a stop signal was received."""
        return self.signal_number is not None

    def _record(self, number: int, frame: FrameType | None) -> None:
        # Launchers and schedulers may both send one: only the first counts, and none ends the process.
        self.signal_number = self.signal_number or number


def ignore_stop_signals(worker: int = 0) -> None:
    """Lets a data loading process outlive a signal that its whole job receives; it ends with its trainer.

    Args:
        worker: index of the worker, as passed by torch's DataLoader.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

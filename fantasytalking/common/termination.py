"""How a command ends with what started it: terminated by a signal, or without its launcher."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_LAUNCHERS = frozenset(["accelerate", "accelerate-launch", "torchrun", "deepspeed"])
_LAUNCHER_MODULES = frozenset(
    [
        *("accelerate.commands.launch", "accelerate.commands.accelerate_cli"),
        *(
            "torch.distributed.run",
            "torch.distributed.launch",
            "deepspeed.launcher.runner",
            "deepspeed.launcher.launch",
        ),
    ]
)
_WATCH_SECONDS = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends the command like Ctrl-C, so that it removes what is unfinished."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Turns the first SIGTERM or SIGHUP into `Terminated` while the block runs, and ignores further ones.

    Signals that are ignored (nohup) or handled already keep that. Several processes that were launched together keep
    the default, since one that waits for another inside a library would not see the exception.
    """
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not is_alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, _: FrameType | None) -> None:
        for each in numbers:  # a launcher often sends it twice; what is unfinished is removed meanwhile
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def die_with_launcher() -> None:
    """Ends this process as soon as `accelerate launch`, torchrun or deepspeed, which started it, is killed.

    Otherwise it would go on as an orphan beside the run that is started in its place. A process that was started by
    anything else, such as a shell, outlives it.
    """
    launcher = os.getppid()
    if not _is_launcher(_command_line(launcher)):
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(launcher,), daemon=True).start()


def _watch(launcher: int) -> None:
    """Ends this process once its parent is another one."""
    while os.getppid() == launcher:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_launcher(command_line: list[str]) -> bool:
    """Whether a command line is that of a launcher: the program itself, or Python with its script or module."""
    program, *arguments = [Path(item).name if not item.startswith("-") else item for item in command_line] or [""]
    if not program.startswith("python"):
        return program in _LAUNCHERS
    for previous, argument in pairwise([program, *arguments]):
        if previous == "-m":
            return argument in _LAUNCHER_MODULES
        if argument == "-c":
            return False
        if not argument.startswith("-") and previous not in ("-X", "-W"):
            return argument in _LAUNCHERS
    return False


def _command_line(pid: int) -> list[str]:
    """Returns the arguments of a process; empty if they are unknown."""
    try:
        if sys.platform == "linux":
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.split()
    except OSError:
        return []

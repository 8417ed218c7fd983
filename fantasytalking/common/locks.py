"""Locks between processes by flock: they end with the process that holds them, however it ends.

They hold between the machines of a shared file system as far as its flock does.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.os_errors import describe_folder_error
from fantasytalking.common.text import utf8_bytes

logger = logging.getLogger(__name__)

RUN_LOCK_FILE = ".run.lock"
"""File in an output folder while a run works on it."""
MAX_HOLDER_BYTES = 4096
_HELD_ERRORS = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


class LocksUnsupportedError(Exception):
    """The file system has no flock."""


class FileLock:
    """An exclusive lock on a file; made by `try_lock`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        _open_locks.add(self)

    def write(self, text: str) -> None:
        """Replaces the content of the file, which others may read."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, utf8_bytes(text), 0)

    def release(self) -> None:
        """Removes the file and unlocks it."""
        with suppress(OSError):  # somebody else may have removed it, with its folder
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Closes the file, which unlocks it in the process that locked it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_open_locks: WeakSet[FileLock] = WeakSet()


def _close_in_child() -> None:
    """A forked worker must not hold the locks of its parent, which it may outlive."""
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


def try_lock(path: Path, *, create: bool = True) -> FileLock | None:
    """Locks a file; None if another holder has it.

    Args:
        create: whether a missing file is created.

    Raises:
        LocksUnsupportedError: the file system has no flock.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = _open(path, os.O_CREAT if create else 0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD_ERRORS:
                return None
            if error.errno in _UNSUPPORTED_ERRORS:
                raise LocksUnsupportedError from error
            raise
        # A holder that ended meanwhile has removed the file: the lock would be on nothing.
        if _is_same_file(descriptor, path):
            return FileLock(path, descriptor)
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
    except PermissionError:  # a file of another user; flock needs no permission to write
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def lock_output(folder: Path, hold: bool = True) -> Iterator[None]:
    """Reserves an output folder for this run; creates it, and removes it again if the run left nothing in it.

    Args:
        folder: output folder of the run.
        hold: whether this process holds the lock: of several processes of one run the first one does.

    Raises:
        InputError: another run works on the folder (says which), or it cannot be created.
    """
    if not hold:
        yield
        return
    created = _create(folder)
    try:
        lock = _lock_run(folder)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()
    finally:
        with suppress(OSError):  # not empty
            for path in created:
                path.rmdir()


def _create(folder: Path) -> list[Path]:
    """Creates a folder; returns it and its parents as far as they are new, innermost first."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output '{folder}' cannot be created: {describe_folder_error(error)}",
            code=ErrorCode.output_exists,
            field="output",
            value=str(folder),
        ) from error
    return missing


def _lock_run(folder: Path) -> FileLock | None:
    path = folder / RUN_LOCK_FILE
    try:
        lock = try_lock(path)
    except LocksUnsupportedError:
        logger.warning(f"the file system of '{folder}' has no locks; do not start two runs with this output")
        return None
    except OSError as error:
        raise InputError(
            f"output '{folder}' cannot be written: {describe_folder_error(error)}",
            code=ErrorCode.output_exists,
            field="output",
            value=str(folder),
        ) from error
    if lock is None:
        raise InputError(
            f"output '{folder}' is in use by {_holder(path)}; wait for that run, stop it, or choose another folder",
            code=ErrorCode.output_exists,
            field="output",
            value=str(folder),
        )
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    with suppress(OSError):  # who holds it is a courtesy: the disk may be full
        lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": sys.argv}))
    return lock


def _holder(path: Path) -> str:
    """Returns who holds a lock, as far as its file says."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MAX_HOLDER_BYTES))
        return f"process {values['pid']} on {values['host']} since {values['since']}"
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return "another run"

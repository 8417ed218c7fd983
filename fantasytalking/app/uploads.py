"""Decides which files a visitor of the page may name: regular files below the upload folder, and nothing else."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_UPLOAD_BYTES


def uploaded_file(path: object, folder: Path) -> Path:
    """Returns the path of an uploaded file.

    Args:
        path: as a browser names it; not trusted.
        folder: the upload folder, without symbolic links in its path.

    Raises:
        InputError: it is no absolute path of a regular file below the folder, or leads through a symbolic link.
    """
    if isinstance(path, str) and "\0" not in path:
        found = Path(os.path.normpath(path))
        # A path that resolves to another one contains a symbolic link; a device or a FIFO is no regular file.
        if found.is_relative_to(folder) and os.path.realpath(found) == str(found) and is_regular_file(found):
            return found
    raise InputError(
        f"{str(path)!r:.80} is not an uploaded file; upload it first",
        code=ErrorCode.missing_file,
        field="path",
        value=path,
    )


def is_regular_file(path: Path) -> bool:
    """Whether the path itself, not what a symbolic link points to, is a regular file."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def named_paths(value: Any) -> Iterator[object]:
    """Yields every path that a request names, however deep: the entries `path` of its objects."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if item.get("path") is not None:
                yield item["path"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file for reading, without following a symbolic link or waiting for a FIFO.

    Raises:
        InputError: it is missing, or no regular file.
    """
    with ExitStack() as opened:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            opened.callback(os.close, descriptor)
        except OSError as error:
            raise InputError(
                f"'{path.name}' cannot be opened ({error.strerror}); upload it again",
                code=ErrorCode.missing_file,
                value=path.name,
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(
                f"'{path.name}' is not a regular file; upload one", code=ErrorCode.missing_file, value=path.name
            )
        yield opened.enter_context(os.fdopen(descriptor, "rb", closefd=False))


def copy_upload(source: Path, target: Path) -> Path:
    """Copies an uploaded file and returns `target`.

    Raises:
        InputError: the source is missing or no regular file, is too large, or the copy cannot be written.
    """
    with open_regular(source) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_UPLOAD_BYTES:
            raise InputError(
                f"'{source.name}' has {size / 2**20:.0f} MB; up to {MAX_UPLOAD_BYTES // 2**20} MB can be used",
                code=ErrorCode.out_of_range,
                value=size,
            )
        try:
            with target.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except OSError as error:
            raise InputError(
                f"'{source.name}' cannot be copied ({error.strerror}); start the page with another --output",
                code=ErrorCode.insufficient_resources,
                field="--output",
            ) from error
    return target


def folder_bytes(folder: Path) -> int:
    """Returns the size of all files below a folder; files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total

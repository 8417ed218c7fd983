"""Atomic file writes and content hashes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_HASHED_BYTES


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix) that replaces `path` when the block ends without an error.

    The temporary file or folder is removed when the block fails, so that no partial output remains. A folder is only
    replaced by one that has all of its entries, so that no file of the user is lost.

    Raises:
        InputError: the folder cannot be created or written, or something else exists at `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(
            f"cannot write '{path}': {error.strerror}; choose another output path",
            code=ErrorCode.output_exists,
            field="output",
            value=str(path),
        ) from error
    try:
        temporary = folder / path.name
        yield temporary
        _clear_target(path, temporary, folder)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_target(path: Path, temporary: Path, folder: Path) -> None:
    if not path.is_dir():
        return
    if not temporary.is_dir():
        raise InputError(
            f"output '{path}' is a folder; give the path of a file",
            code=ErrorCode.output_exists,
            field="output",
            value=str(path),
        )
    others = sorted({entry.name for entry in path.iterdir()} - {entry.name for entry in temporary.iterdir()})
    if others:
        raise InputError(
            f"output '{path}' holds other files ('{others[0]}'); choose an empty or new folder",
            code=ErrorCode.output_exists,
            field="output",
            value=str(path),
        )
    path.rename(folder / "previous")


def existing_file(path: str | Path, what: str) -> Path:
    """Returns `path` as a Path if it is a readable regular file.

    Args:
        path: the file.
        what: names it in the message ("portrait", "audio").

    Raises:
        InputError: it is missing, a folder, or not readable.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError(
            f"{what} '{path}' {kind}; give the path of a file",
            code=ErrorCode.missing_file,
            field=what,
            value=str(path),
        )
    if not os.access(path, os.R_OK):
        raise InputError(
            f"{what} '{path}' cannot be read; check its permissions",
            code=ErrorCode.missing_file,
            field=what,
            value=str(path),
        )
    return path


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's content as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(file_or_folder: Path) -> str:
    """Returns a hash of a file or folder: of names, sizes and, up to `MAX_HASHED_BYTES`, contents."""
    digest = hashlib.sha256()
    files = (
        [file_or_folder]
        if file_or_folder.is_file()
        else sorted(path for path in file_or_folder.rglob("*") if path.is_file())
    )
    for file in files:
        size = file.stat().st_size
        content = hash_file(file) if size <= MAX_HASHED_BYTES else ""
        digest.update(f"{file.relative_to(file_or_folder.parent).as_posix()}\0{size}\0{content}\n".encode())
    return digest.hexdigest()

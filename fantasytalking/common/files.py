"""Files that are there whole or not at all, and what is in them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fantasytalking.common.errors import InputError

MAX_HASHED_BYTES = 64 << 20
"""Files of weights up to this size are compared by content, larger ones by name and size."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix) that replaces `path` when the block ends without an error.

    The temporary file or folder is removed when the block fails, so that no half-written output is left behind. A
    folder is replaced only by one that has all of its entries, so that nothing of the user's own is lost.

    Raises:
        InputError: the folder cannot be made or written, or something else stands there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}; choose another output path") from error
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
        raise InputError(f"output '{path}' is a folder; give the path of a file")
    others = sorted({entry.name for entry in path.iterdir()} - {entry.name for entry in temporary.iterdir()})
    if others:
        raise InputError(f"output '{path}' holds other things ('{others[0]}'); choose an empty or new folder")
    path.rename(folder / "previous")


def existing_file(path: str | Path, what: str) -> Path:
    """`path` as a Path, when a readable regular file is there.

    Raises:
        InputError: there is none; `what` names it in the message ("portrait", "audio").
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError(f"{what} '{path}' {kind}; give the path of a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{what} '{path}' cannot be read; check its permissions")
    return path


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(file_or_folder: Path) -> str:
    """Of a file or a folder: names, sizes and, up to `MAX_HASHED_BYTES`, contents."""
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

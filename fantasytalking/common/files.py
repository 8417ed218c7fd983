"""Atomic writes, with the errors of disks and names in one line; content hashes."""

import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_HASHED_BYTES
from fantasytalking.common.locks import FileLock, LocksUnsupportedError, try_lock
from fantasytalking.common.os_errors import FULL_DISK_ERRORS, describe_folder_error, describe_os_error, os_error_number
from fantasytalking.common.text import is_utf8, utf8_bytes

OWNER_FILE = ".fantasytalking-owner"
"""File in the folder of a temporary file, locked as long as its process lives."""
MAX_NAME_BYTES = 255
"""Longest name of a file on the usual file systems."""
_TEMPORARY_NAME_BYTES = 64
_TEMPORARY_FOLDER = re.compile(r"\..+\.[a-z0-9_]{8}")
_swept: set[Path] = set()
_open_folders: set[Path] = set()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same name) that replaces `path` when the block ends without an error.

    The temporary file or folder is removed when the block fails, so that no partial output remains. What killed
    processes left in the same folder is removed, too. The permissions are those of any new file (umask). A folder is
    only replaced by one that has all of its entries, so that no file of the user is lost.

    Raises:
        InputError: the folder cannot be created or written, something else exists at `path`, or the disk is full,
            read-only or failing.
    """
    path = Path(path)
    if _is_temporary(path):
        with _written_whole(path):
            yield path
        return
    _check_is_expanded(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        folder, owner = _make_temporary_folder(path)
    except OSError as error:
        raise InputError(
            f"cannot write '{path}': {describe_folder_error(error)}",
            code=ErrorCode.output_exists,
            field="output",
            value=str(path),
        ) from error
    _open_folders.add(folder)
    try:
        with report_write_errors(path, folder):
            temporary = folder / path.name
            with suppress(FileNotFoundError):
                path.lstat(), temporary.lstat()  # names that are too long are reported before the work
            yield temporary
            _clear_target(path, temporary, folder)
            _apply_umask(temporary, folder.stat().st_mode)
            os.replace(temporary, path)
    finally:
        _open_folders.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if owner is not None:
            owner.close()


def _is_temporary(path: Path) -> bool:
    """Whether nothing is at `path` yet and an open `atomic_write` will move or remove it, with its errors."""
    return any(parent in _open_folders for parent in path.parents) and not path.exists()


@contextmanager
def _written_whole(path: Path) -> Iterator[None]:
    """Removes what a failing block has written to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        raise


def atomic_write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8; lone surrogates (names that are not UTF-8) are escaped.

    Raises:
        InputError: as `atomic_write`.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(utf8_bytes(text))


@contextmanager
def report_write_errors(path: str | Path, *folders: Path, field: str = "output") -> Iterator[None]:
    """Reports in one line what a full, read-only or failing disk raises in the block.

    Args:
        path: the file or folder that is written.
        folders: folders in which the block writes for it; errors about other files are raised as they are.
        field: the option or key that names `path`.

    Raises:
        InputError: the disk is full, read-only or failing, a quota is used up, or a name is too long.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        number = os_error_number(error)
        reason = describe_os_error(number)
        if reason is None or _concerns_another_file(error, (Path(path), *folders)):
            raise
        raise InputError(
            f"cannot write '{path}': {reason}",
            code=ErrorCode.insufficient_resources if number in FULL_DISK_ERRORS else ErrorCode.output_exists,
            field=field,
            value=str(path),
        ) from error


def _concerns_another_file(error: BaseException, paths: tuple[Path, ...]) -> bool:
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes):
        return False
    found = Path(os.fsdecode(name))
    return not any(found == path or path in found.parents for path in paths)


def _check_is_expanded(path: Path) -> None:
    """Raises where a shell has not replaced `~`: a folder of that name would be created in the working directory."""
    first = path.parts[0] if path.parts else ""
    if first.startswith("~") and not Path(first).exists():
        raise InputError(
            f"'{path}' begins with '{first}', which the shell has not replaced; write $HOME in place of ~",
            code=ErrorCode.out_of_range,
            field="output",
            value=str(path),
        )


def _make_temporary_folder(path: Path) -> tuple[Path, FileLock | None]:
    """Creates .NAME.XXXXXXXX beside `path`, locked by this process if the file system can."""
    name = path.name
    while len(os.fsencode(name)) > _TEMPORARY_NAME_BYTES:
        name = name[1:]
    while True:
        folder = path.parent / f".{name}.{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            owner = try_lock(folder / OWNER_FILE)
        except LocksUnsupportedError:
            (folder / OWNER_FILE).unlink()  # without a lock, others cannot know whether its process lives
            return folder, None
        except FileExistsError:
            continue
        if owner is not None:
            return folder, owner


def _remove_abandoned(parent: Path) -> None:
    """Removes the temporary folders in `parent` whose processes have ended; once per folder and process."""
    parent = parent.resolve()
    if parent in _swept:
        return
    _swept.add(parent)
    with suppress(OSError, LocksUnsupportedError):  # of another user, or removed by another process meanwhile
        for entry in os.scandir(parent):
            if _TEMPORARY_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    """Removes a temporary folder of `atomic_write` if the process that made it has ended."""
    try:
        owner = try_lock(folder / OWNER_FILE, create=False)
    except FileNotFoundError:
        return
    if owner is not None:
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def apply_umask(path: Path) -> None:
    """Gives a file or folder that is finished the permissions of any new one beside it (umask)."""
    probe = path.with_name(f".{secrets.token_hex(8)}")
    probe.mkdir()
    try:
        _apply_umask(path, probe.stat().st_mode)
    finally:
        probe.rmdir()


def _apply_umask(path: Path, new_folder_mode: int) -> None:
    """Adds the permissions that a new folder has; libraries create files that only their owner may read."""
    below = path.rglob("*") if path.is_dir() else ()
    for item in (path, *below):
        mode = item.lstat().st_mode
        wanted = mode | (new_folder_mode & (0o777 if stat.S_ISDIR(mode) else 0o666))
        if wanted != mode and not stat.S_ISLNK(mode):
            with suppress(PermissionError):  # the file system has no permissions of its own
                item.chmod(stat.S_IMODE(wanted))


def check_utf8_path(path: Path, field: str) -> None:
    """Validates that a path is UTF-8, since safetensors opens no other files.

    Raises:
        InputError: it is not.
    """
    if not is_utf8(str(path)):
        raise InputError(
            f"'{path}' is not UTF-8, and safetensors files are read from such paths only; rename it",
            code=ErrorCode.unsupported,
            field=field,
            value=str(path),
        )


def bounded_file(path: str | Path, what: str, max_bytes: int, cure: str, *, field: str | None = None) -> Path:
    """Returns the path of an existing file that has at most `max_bytes`.

    Args:
        what: name of the file in messages.
        cure: what to do about a larger one.
        field: of the error about a larger one; None: `what`.

    Raises:
        InputError: the file is missing or larger.
    """
    path = existing_file(path, what)
    size = path.stat().st_size
    if size > max_bytes:
        raise InputError(
            f"{what} '{path}' has {size} bytes; the limit is {max_bytes}; {cure}",
            code=ErrorCode.out_of_range,
            field=field or what,
            value=size,
        )
    return path


def check_has_stem(path: Path, suffixes: Collection[str], field: str) -> None:
    """Validates that an output is more than a suffix, such as `.mp4`.

    Raises:
        InputError: it is not.
    """
    if path.name.lower() in suffixes:
        raise InputError(
            f"output '{path}' has no name before {path.name}; give one, such as output{path.name}",
            code=ErrorCode.invalid_choice,
            field=field,
            value=str(path),
        )


def shorten_name(name: str, max_bytes: int) -> str:
    """Returns a file name of at most `max_bytes`; longer ones are cut and end in a hash of the whole name."""
    if len(utf8_bytes(name)) <= max_bytes:
        return name
    ending = f"-{hashlib.sha256(utf8_bytes(name)).hexdigest()[:8]}"
    while len(utf8_bytes(name)) > max_bytes - len(ending):
        name = name[:-1]
    return name + ending


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
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise InputError(
            f"{what} '{path}' cannot be read: {describe_os_error(error.errno) or error.strerror}",
            code=ErrorCode.missing_file,
            field=what,
            value=str(path),
        ) from error
    if not is_file:
        kind = "is a folder, not a file" if is_folder else "does not exist"
        raise InputError(
            f"{what} '{path}' {kind}; give the path of a file",
            code=ErrorCode.missing_file,
            field=what,
            value=str(path),
        )
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
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
        digest.update(utf8_bytes(f"{file.relative_to(file_or_folder.parent).as_posix()}\0{size}\0{content}\n"))
    return digest.hexdigest()

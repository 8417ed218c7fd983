"""Reads torch files (.ckpt, .pt, .pth) as plain tensors; what they unpack to is counted before it is read."""

import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import MAX_ARCHIVE_ENTRIES, MAX_PICKLE_BYTES, MAX_UNPACKED_RATIO

_SLACK_BYTES = 1 << 20
"""Bytes that a file of any size may unpack to."""
# Errors of torch.load and of the archive's directory on a file that is not a pickle of plain tensors.
_PICKLE_ERRORS = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, ImportError),
)


def read_pickle(path: Path, *, mapped: bool = False) -> Any:
    """Reads a torch file of plain containers and tensors.

    Args:
        mapped: leave the values of tensors in the file, from which they are read where they are used. Files in torch's
            format from before 1.6 are read whole.

    Raises:
        InputError: the file is larger than `MAX_PICKLE_BYTES`, unpacks to more than `MAX_UNPACKED_RATIO` times its
            size, is damaged, or contains anything else, such as code.
    """
    size = existing_file(path, "checkpoint").stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise InputError(
            f"'{path}' has {size / 2**30:.1f} GiB; at most {MAX_PICKLE_BYTES / 2**30:.0f} GiB are read; convert it to "
            "safetensors",
            code=ErrorCode.out_of_range,
            field=str(path),
            value=size,
        )
    try:
        can_be_mapped = _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hint about pickle protocols; the error below says what is wrong
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and can_be_mapped)
        _check_tensors(loaded, path, size)
    except InputError:
        raise
    except _PICKLE_ERRORS as error:
        raise InputError(
            f"'{path}' is not a torch file of plain tensors, and nothing else is loaded from a pickle; "
            "get it again from its source, or as safetensors",
            code=ErrorCode.malformed_file,
            field=str(path),
        ) from error
    return loaded


def _check_archive(path: Path, size: int) -> bool:
    """Counts what the entries of a zip archive unpack to, by its directory, which torch allocates by as well.

    Returns:
        Whether it is an archive without compression.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MAX_ARCHIVE_ENTRIES:
        raise InputError(
            f"'{path}' has {len(entries)} entries; at most {MAX_ARCHIVE_ENTRIES} are read; get it as safetensors",
            code=ErrorCode.out_of_range,
            field=str(path),
            value=len(entries),
        )
    _check_unpacked(path, size, sum(entry.file_size for entry in entries))
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _check_tensors(loaded: Any, path: Path, size: int) -> None:
    """Counts the values of tensors, which may repeat those of a small storage any number of times."""
    unpacked = 0
    for tensor in _tensors(loaded):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise InputError(
                f"'{path}' contains a {tensor.layout} tensor on {tensor.device.type}; dense tensors are read; get it "
                "again from its source",
                code=ErrorCode.malformed_file,
                field=str(path),
            )
        unpacked += tensor.numel() * tensor.element_size()
    _check_unpacked(path, size, unpacked)


def _check_unpacked(path: Path, size: int, unpacked: int) -> None:
    if unpacked > MAX_UNPACKED_RATIO * size + _SLACK_BYTES:
        raise InputError(
            f"'{path}' has {size} bytes but unpacks to {unpacked}, more than {MAX_UNPACKED_RATIO} times as many; torch "
            "writes tensors without compression: save it again, or get it as safetensors",
            code=ErrorCode.out_of_range,
            field=str(path),
            value=unpacked,
        )


def _tensors(loaded: Any) -> Iterator[Tensor]:
    """Yields every tensor in nested containers once."""
    pending, seen = [loaded], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            pending.extend(value)

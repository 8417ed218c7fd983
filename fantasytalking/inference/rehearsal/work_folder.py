"""The work folder of a rehearsal: recognized by its marker, so that nothing of others is overwritten or removed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text, report_write_errors
from fantasytalking.common.text_files import read_json

MARKER = "fantasytalking_rehearsal.json"
"""File that marks a work folder and describes the weights in it; {} while they are being written."""


def check_work_folder(work: Path) -> None:
    """Checks that a folder is new, empty or of an earlier rehearsal.

    Raises:
        InputError: it is anything else.
    """
    is_other = work.exists() and (not work.is_dir() or (any(work.iterdir()) and not (work / MARKER).is_file()))
    if is_other:
        raise InputError(
            f"'{work}' exists and is not the work folder of a rehearsal; give a new folder as --work",
            code=ErrorCode.output_exists,
            field="--work",
            value=str(work),
        )


def holds_weights(work: Path, description: Mapping[str, Any]) -> bool:
    """Whether an earlier rehearsal has left the weights of this description in its work folder."""
    return (work / MARKER).is_file() and read_json(work / MARKER) == dict(description)


def begin_weights(work: Path) -> None:
    """Empties the work folder and marks it.

    Raises:
        InputError: it is not a work folder, or cannot be written.
    """
    remove_work_folder(work)
    with report_write_errors(work, field="--work"):
        work.mkdir(parents=True, exist_ok=True)
    atomic_write_text(work / MARKER, "{}\n")


def end_weights(work: Path, description: Mapping[str, Any]) -> None:
    """Records that the weights of this description are written whole."""
    atomic_write_text(work / MARKER, json.dumps(description, indent=2) + "\n")


def remove_work_folder(work: Path) -> None:
    """Removes the work folder of a rehearsal and everything in it, if it exists.

    Raises:
        InputError: it is not one.
    """
    check_work_folder(work)
    if work.exists():
        shutil.rmtree(work)


def check_disk(work: Path, needed: int) -> None:
    """Checks that the disk of the work folder has room.

    Raises:
        InputError: it has not.
    """
    existing = next(folder for folder in (work, *work.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"the weights take {needed / 2**30:.1f} GiB, but '{existing}' has {free / 2**30:.1f} GiB free; give "
            "another --work, or fewer --layers",
            code=ErrorCode.insufficient_resources,
            field="--work",
            value=free,
        )

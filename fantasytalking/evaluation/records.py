"""What a run keeps of every clip and metric: one file each, put in place whole, with what it was measured from."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import written_whole
from fantasytalking.evaluation.metric import Record

MAX_BYTES = 1 << 28
_MEASURED_BY, _HASH = "version", "prediction_sha256"


class Side(StrEnum):
    """What was measured."""

    PREDICTION = "prediction"
    TRUTH = "truth"
    """The reference itself, by a metric that looks at one video."""
    FLOOR = "floor"
    """Real against real: even against odd frames of the reference, or its second half by a metric of one video."""
    CONTROL = "control"
    """The prediction with the sound of another clip."""


Sides = dict[Side, Record]


def record_path(folder: Path, metric: str, clip: str) -> Path:
    """Where a record stands."""
    return folder / "records" / metric / f"{clip}.npz"


def save_record(path: Path, sides: Mapping[Side, Record], measured_by: str, prediction_sha256: str) -> None:
    """Writes a record whole or not at all, with what it was measured by (`registry.measured_by`) and from."""
    values = {f"{side.value}/{key}": value for side, record in sides.items() for key, value in record.items()}
    source = {_MEASURED_BY: np.array(measured_by), _HASH: np.array(prediction_sha256)}
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **source, **values)


def load_record(path: Path, measured_by: str, prediction_sha256: str | None = None) -> Sides | None:
    """The record; None where there is none measured so, or it is of another video (None: of whichever).

    Raises:
        InputError: the file is damaged.
    """
    found = _read(path)
    if found is None or found[0] != measured_by or prediction_sha256 not in (None, found[1]):
        return None
    return found[2]


def record_measured_by(path: Path) -> str | None:
    """What a record was measured by; None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    found = _read(path)
    return None if found is None else found[0]


def _read(path: Path) -> tuple[str, str, Sides] | None:
    """What measured it, from what, and the sides."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        with np.load(path, allow_pickle=False) as values:
            sides: Sides = {}
            for key in values.files:
                side, _, name = key.partition("/")
                if name:
                    sides.setdefault(Side(side), {})[name] = values[key]
            return str(values[_MEASURED_BY]), str(values[_HASH]), sides
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(f"record '{path}' is damaged ({error}); delete it and evaluate again") from error

"""Records: the measurements of a metric on a clip, one file each, with what they were measured from."""

import io
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.limits import MAX_MEASUREMENT_BYTES
from fantasytalking.evaluation.metric import Measurement

_KEY_FIELD, _HASH_FIELD = "version", "prediction_sha256"


class MeasurementSide(StrEnum):
    """What a measurement compares."""

    PREDICTION = "prediction"
    """The prediction."""
    REFERENCE = "truth"
    """The reference itself, for a metric of a single video."""
    FLOOR = "floor"
    """Real against real: even against odd frames of the reference, or its second half for a metric of one video."""
    CONTROL = "control"
    """The prediction with the audio of another clip."""


ClipMeasurements = dict[MeasurementSide, Measurement]


def record_path(folder: Path, metric: str, clip: str) -> Path:
    """Returns the path of a record in the output folder of a run."""
    return folder / "records" / metric / f"{clip}.npz"


def save_record(
    path: Path, measurements: Mapping[MeasurementSide, Measurement], measurement_key: str, prediction_sha256: str
) -> None:
    """Writes a record atomically.

    Args:
        measurement_key: version and weights of the metric (`registry.measurement_key`).
        prediction_sha256: hash of the prediction's file.
    """
    values = {f"{side.value}/{key}": value for side, record in measurements.items() for key, value in record.items()}
    source = {_KEY_FIELD: np.array(measurement_key), _HASH_FIELD: np.array(prediction_sha256)}
    content = io.BytesIO()
    np.savez(content, **source, **values)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_record(path: Path, measurement_key: str, prediction_sha256: str | None = None) -> ClipMeasurements | None:
    """Loads a record; None if it is missing or does not match.

    Args:
        measurement_key: version and weights of the metric.
        prediction_sha256: hash of the prediction's file; None = any.

    Raises:
        InputError: the file is damaged.
    """
    found = _read_record(path)
    if found is None or found[0] != measurement_key or prediction_sha256 not in (None, found[1]):
        return None
    return found[2]


def stored_measurement_key(path: Path) -> str | None:
    """Returns the measurement key of a record; None if it is missing.

    Raises:
        InputError: the file is damaged.
    """
    found = _read_record(path)
    return None if found is None else found[0]


def _read_record(path: Path) -> tuple[str, str, ClipMeasurements] | None:
    """Returns the measurement key, the prediction's hash and the measurements."""
    if not path.is_file():
        return None
    try:
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if max(size, path.stat().st_size) > MAX_MEASUREMENT_BYTES:
            raise ValueError(f"{size} bytes")
        with np.load(path, allow_pickle=False) as values:
            sides: ClipMeasurements = {}
            for key in values.files:
                side, _, name = key.partition("/")
                if name:
                    sides.setdefault(MeasurementSide(side), {})[name] = values[key]
            return str(values[_KEY_FIELD]), str(values[_HASH_FIELD]), sides
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(
            f"record '{path}' is damaged ({error}); delete it and evaluate again",
            code=ErrorCode.malformed_file,
            field="records",
            value=str(path),
        ) from error

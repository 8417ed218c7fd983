"""manifest.jsonl and rejected.jsonl: what a prepared corpus holds, and what was left out and why."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.motion_normalizer import MotionMeasure, MotionNormalizer

MANIFEST_FILE = "manifest.jsonl"
REJECTIONS_FILE = "rejected.jsonl"
MAX_LINE_BYTES = 1 << 16
MAX_PEOPLE_PER_CLIP = 8
"""In one clip."""


class RejectionReason(StrEnum):
    """Why a video or a stretch of it was left out. The values stand in rejected.jsonl."""

    UNREADABLE = "unreadable"
    """Empty, not a video, or not one that can be decoded."""
    DAMAGED = "damaged"
    """It breaks off, or cannot be decoded from `start` on."""
    TOO_LONG = "too_long"
    """It declares more than 12 hours."""
    LOW_FRAME_RATE = "low_frame_rate"
    """Its frame rate is too far below the one that was asked for."""
    LOW_RESOLUTION = "low_resolution"
    """It would have to be enlarged too much."""
    NO_AUDIO = "no_sound"
    """It has no sound track, or none that can be read at `start`."""
    AUDIO_TOO_SHORT = "sound_too_short"
    """The sound ends before the clip does."""
    SILENT = "silent"
    """The sound is never louder than the limit."""
    TOO_SHORT = "too_short"
    """The scene is shorter than one clip."""
    NO_FACE = "no_face"
    """No frame shows a face."""
    FACE_LOST = "face_lost"
    """Too few frames show the face, or the first does not."""
    LOW_CONFIDENCE = "low_confidence"
    """The face detector is not sure enough."""
    FACE_TOO_SMALL = "face_too_small"
    """The face is too small in the prepared picture."""
    MULTIPLE_PEOPLE = "several_people"
    """Several people, and none of them is clearly the one who talks."""
    SPEAKER_COUNT_MISMATCH = "sounds_unmatched"
    """There are sounds of its people, but of more or fewer than are seen."""
    BLURRED = "blurred"
    """Somebody's face among several is not sharp."""
    STATIC_FACES = "still_faces"
    """Somebody's face among several hardly moves, as that of a photograph."""
    FACE_CUT_OFF = "face_cut_off"
    """The face leaves the cropped picture."""


@dataclass(frozen=True)
class ClipRecord:
    """One line of manifest.jsonl. Paths are relative: `video` to the input folder, `features` to the manifest."""

    clip: str
    """Unique name, made of the video's name and the start in milliseconds."""
    video: str
    start: float
    """Seconds from the video's first frame."""
    duration: float
    """Seconds: frames / fps."""
    fps: float
    frames: int
    """1 + 4k."""
    width: int
    """Pixels of the prepared picture."""
    height: int
    expression: float
    """Strength of the face's own motion, [0, 1] over the corpus (paper: omega_l)."""
    body: float
    """Strength of the motion of head and body, [0, 1] over the corpus (paper: omega_b)."""
    expression_measure: float
    """The measurement from which `expression` was normalised."""
    body_measure: float
    face_size: float
    """Median height of the face in pixels of the prepared picture."""
    features: str
    people: int = 1
    """Whose faces the features tell of. A line of one person does not say so."""

    def renormalized(self, normalizer: MotionNormalizer) -> "ClipRecord":
        """The same with its motion normalised by other constants."""
        expression, body = normalizer.normalize(MotionMeasure(self.expression_measure, self.body_measure))
        return replace(self, expression=round(expression, 6), body=round(body, 6))

    def __post_init__(self) -> None:
        """Checks what a training run relies on.

        Raises:
            InputError: a value outside its range, or a path that leaves the manifest's folder.
        """
        path = PurePosixPath(self.features)
        checks = {
            "features": not path.is_absolute() and ".." not in path.parts and path.suffix == ".safetensors",
            "frames": self.frames >= 1 and (self.frames - 1) % 4 == 0,
            "width": self.width > 0,
            "height": self.height > 0,
            "fps": 0 < self.fps <= 240,
            "start": self.start >= 0,
            "duration": self.duration > 0,
            "expression": 0 <= self.expression <= 1,
            "body": 0 <= self.body <= 1,
            "people": 1 <= self.people <= MAX_PEOPLE_PER_CLIP,
        }
        for name, sound in checks.items():
            if not sound:
                raise InputError(f"clip '{self.clip}': {name} is {getattr(self, name)!r}, which cannot be")


@dataclass(frozen=True)
class Rejection:
    """One line of rejected.jsonl."""

    video: str
    start: float
    """Seconds from the video's first frame; 0 where the whole video is meant."""
    reason: RejectionReason
    detail: str
    """The measured value and the limit, for people."""


class ClipRejected(Exception):  # noqa: N818  (not an error: the clip is left out)
    """Stops the preparation of a clip that cannot be used.

    Args:
        reason: the reason that rejected.jsonl records.
        detail: the measured value and the limit, as in `Rejection.detail`.
    """

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


RecordT = TypeVar("RecordT", ClipRecord, Rejection)
_DEFAULTS = {field.name: field.default for field in fields(ClipRecord) if field.default is not MISSING}


def write_records(path: Path, records: Iterable[ClipRecord | Rejection]) -> None:
    """Writes records sorted by video and start, one JSON object a line, whole or not at all."""
    ordered = sorted(records, key=lambda line: (line.video, line.start))
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in ordered:
            told = {name: value for name, value in asdict(line).items() if value != _DEFAULTS.get(name)}
            file.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")


def read_manifest(path: str | Path) -> list[ClipRecord]:
    """The clips of a manifest.jsonl, in its order.

    Raises:
        InputError: the file is missing, empty, or a line is not a clip; names the line.
    """
    records = list(_read_lines(existing_file(path, "manifest"), ClipRecord))
    if not records:
        raise InputError(f"manifest '{path}' holds no clip; see rejected.jsonl beside it for the reasons")
    return records


def read_rejections(path: str | Path) -> list[Rejection]:
    """The lines of a rejected.jsonl.

    Raises:
        InputError: the file is missing or a line is not a rejection; names the line.
    """
    return list(_read_lines(existing_file(path, "list of rejections"), Rejection))


def _read_lines(path: Path, record_type: type[RecordT]) -> Iterator[RecordT]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            try:
                yield parse_record(json.loads(line), record_type)
            except (ValueError, RecursionError) as error:
                raise InputError(f"'{path}' line {number}: {error}; prepare the corpus again") from error


def parse_record(values: Any, record_type: type[RecordT]) -> RecordT:
    """A record from the JSON object `values`, its keys and types checked.

    Raises:
        InputError: a key misses that has no default, a key is unknown, or holds another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"a {type(values).__name__} where an object of keys and values should stand")
    known = {field.name: field.type for field in fields(record_type)}
    may_miss = {field.name for field in fields(record_type) if field.default is not MISSING} - values.keys()
    wrong = sorted((known.keys() ^ values.keys()) - may_miss)
    if wrong:
        raise InputError(f"the key '{wrong[0]}' {'misses' if wrong[0] in known else 'is unknown'}")
    return record_type(**{name: _check_type(name, value, known[name]) for name, value in values.items()})


def _check_type(name: str, value: Any, expected_type: Any) -> Any:
    if expected_type is RejectionReason:
        return RejectionReason(value)
    if expected_type is float and type(value) is int:
        value = float(value)
    if type(value) is not expected_type or (expected_type is float and not math.isfinite(value)):
        raise InputError(f"{name} is {value!r}; it must be of type {expected_type.__name__}")
    return value

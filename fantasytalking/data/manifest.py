"""Reads and writes manifest.jsonl and rejected.jsonl: the clips of a prepared corpus, and the rejected videos."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.limits import MAX_LINE_CHARS, MAX_MANIFEST_BYTES
from fantasytalking.common.text_files import parse_json, read_text_lines
from fantasytalking.face_range import FacePlacement, FaceRange, fit_face_ranges
from fantasytalking.motion_normalizer import MotionMeasure, MotionNormalizer

MANIFEST_FILE = "manifest.jsonl"
REJECTIONS_FILE = "rejected.jsonl"
MAX_PEOPLE_PER_CLIP = 8


class RejectionReason(StrEnum):
    """Reason for which a video or a segment was rejected. The values are written to rejected.jsonl."""

    UNREADABLE = "unreadable"
    """The file is empty, not a video, or cannot be decoded."""
    DAMAGED = "damaged"
    """The video breaks off, or cannot be decoded after `start`."""
    TOO_LONG = "too_long"
    """The video declares more than 12 hours."""
    LOW_FRAME_RATE = "low_frame_rate"
    """The frame rate is too far below that of the clips."""
    LOW_RESOLUTION = "low_resolution"
    """The video would have to be upscaled too much."""
    NO_AUDIO = "no_sound"
    """The video has no audio track, or none that can be read at `start`."""
    AUDIO_TOO_SHORT = "sound_too_short"
    """The audio ends before the clip."""
    SILENT = "silent"
    """The audio is quieter than the limit."""
    TOO_SHORT = "too_short"
    """The scene is shorter than one clip."""
    NO_FACE = "no_face"
    """No frame shows a face."""
    FACE_LOST = "face_lost"
    """Too few frames show the face, or the first one does not."""
    LOW_CONFIDENCE = "low_confidence"
    """The score of the face detector is too low."""
    FACE_TOO_SMALL = "face_too_small"
    """The face is too small in the prepared frames."""
    MULTIPLE_PEOPLE = "several_people"
    """There are several people and no clear active speaker."""
    SPEAKER_COUNT_MISMATCH = "sounds_unmatched"
    """The number of speech files is not that of the visible people."""
    BLURRED = "blurred"
    """A face is blurred."""
    STATIC_FACES = "still_faces"
    """The face of one of several people barely moves, as in a photograph."""
    FACE_CUT_OFF = "face_cut_off"
    """The face leaves the cropped frame."""
    NOT_SPEECH = "not_speech"
    """The audio is as steady as a tone, noise or music."""
    BACKGROUND_SOUND = "background_sound"
    """Music or noise fills the pauses of the speech."""
    LOW_DETAIL = "low_detail"
    """The face was enlarged: it has fewer true pixels than it shows."""
    PROFILE = "profile"
    """The head is turned too far to the side."""
    COVERED_MOUTH = "covered_mouth"
    """Something is before the mouth."""
    STILL_MOUTH = "still_mouth"
    """The mouth moves too little for speech, as in a photograph or while listening."""
    TEXT_OVER_FACE = "text_over_face"
    """Text or a logo covers part of the face."""
    CAMERA_MOTION = "camera_motion"
    """The camera moves too fast."""
    SOUND_SHIFTED = "sound_shifted"
    """The audio is early or late."""
    OUT_OF_SYNC = "out_of_sync"
    """Mouth and audio do not agree, as with the speech of somebody else."""
    DUPLICATE = "duplicate"
    """An earlier clip shows and says the same."""
    NOT_PREPARED = "not_prepared"
    """Changed limits keep the clip, but its features have not been computed."""


@dataclass(frozen=True)
class ClipRecord:
    """One line of manifest.jsonl. Paths are relative: `video` to the input folder, `features` to the manifest."""

    clip: str
    """Unique name, derived from the video's name and the start in milliseconds."""
    video: str
    start: float
    """Seconds from the video's first frame."""
    duration: float
    """Seconds: frames / fps."""
    fps: float
    frames: int
    """1 + 4k."""
    width: int
    """Width of the prepared frames in pixels."""
    height: int
    """Height of the prepared frames in pixels."""
    expression: float
    """Expression intensity, normalized to [0, 1] over the corpus (paper: omega_l)."""
    body: float
    """Intensity of head and body motion, normalized to [0, 1] over the corpus (paper: omega_b)."""
    expression_measure: float
    """Measurement from which `expression` was normalized."""
    body_measure: float
    """Measurement from which `body` was normalized."""
    face_size: float
    """Median height of the face in pixels of the prepared frames."""
    features: str
    people: int = 1
    """Number of people in the features. Lines with one person omit the key."""
    face_confidence: float | None = None
    """Mean score of the face detector, [0, 1]. Of several people this and the next four state the least favorable
    value. Lines of earlier releases lack all measurements."""
    visible_fraction: float | None = None
    """Fraction of the frames that show the face, [0, 1]."""
    face_blur: float | None = None
    """Blur of the face in the prepared frames, [0, 1]; larger is more blurred."""
    face_movement: float | None = None
    """Variance of brows, lids and lips above the landmark jitter, in squared interocular distances."""
    face_yaw: float | None = None
    """95th percentile of the head's yaw to either side, in degrees; 0 is frontal."""
    mouth_speed: float | None = None
    """Mean speed of the mouth opening, in interocular distances per second, of the mouth that moves most."""
    mouth_audio_correlation: float | None = None
    """Correlation of mouth opening and loudness at the best lag up to 0.2 s, in [-1, 1], of the best mouth."""
    loudness_db: float | None = None
    """Level in dB of full scale that the loudest twentieth of the audio reaches."""
    face_height: float | None = None
    """Median height of the smallest face, relative to the prepared frame's height."""
    face_x: float | None = None
    """Median center of the area that the faces cover, from the left, relative to the prepared frame's width."""
    face_y: float | None = None
    """Median center of that area from the top, relative to the prepared frame's height."""
    face_pixels: float | None = None
    """Median height of the smallest face in pixels of the prepared frames."""
    complete_fraction: float | None = None
    """Fraction of the frames with the face in which all of it is within the frame, [0, 1]."""
    together_fraction: float | None = None
    """Fraction of the frames that show all people, [0, 1]."""
    upscale: float | None = None
    """Factor by which the source frames were enlarged; below 1 they were reduced."""
    sound_steadiness: float | None = None
    """How alike the spectra of the audio are 0.128 s apart, [0, 1]. Absent, as the next, in clips below 2 s."""
    speech_depth_db: float | None = None
    """Decibels from the loudest twentieth of the audio down to its quietest tenth."""
    face_detail_db: float | None = None
    """Power of the face's fine detail relative to its coarse detail. Absent, as the next two, for small faces."""
    lip_edges: float | None = None
    """Contrast of the lips relative to that of the face."""
    overlay_fraction: float | None = None
    """Fraction of the lower face that is edges which stay in place while the face moves, [0, 1]."""
    camera_motion: float | None = None
    """Mean speed of the background in frame heights per second. Absent for plain backgrounds."""
    mouth_agreement: float | None = None
    """Agreement of mouth and audio as they are, [-1, 1], of the best mouth. Absent in clips below 2 s."""
    audio_lag: float | None = None
    """Seconds by which the audio is late; absent where that is not certain."""
    audio_shift: float | None = None
    """Seconds by which the audio was moved earlier, with `shift_audio`; absent where it was not."""
    sync_confidence: float | None = None
    """SyncNet's confidence, of the best mouth. Absent, as the next, without its weights."""
    sync_offset: float | None = None
    """SyncNet's offset in frames at 25 per second; positive: the audio leads."""
    image_hash: str | None = None
    """Hash of three frames, in hexadecimal digits."""
    sound_hash: str | None = None
    """Hash of the audio, in hexadecimal digits."""

    @property
    def face_placement(self) -> FacePlacement | None:
        """Size and place of the faces; None in lines of earlier releases, which do not state them."""
        if self.face_height is None or self.face_x is None or self.face_y is None:
            return None
        return FacePlacement(self.face_height, self.face_x, self.face_y)

    @property
    def bucket(self) -> tuple[float, ...]:
        """Width, height, frames, frame rate and people: clips of one batch have them in common."""
        return self.width, self.height, self.frames, self.fps, self.people

    def renormalized(self, normalizer: MotionNormalizer) -> "ClipRecord":
        """Returns the record with its motion normalized by another normalizer."""
        expression, body = normalizer.normalize(MotionMeasure(self.expression_measure, self.body_measure))
        return replace(self, expression=round(expression, 6), body=round(body, 6))

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: a value is out of range, or the path leaves the manifest's folder.
        """
        path = PurePosixPath(self.features)
        checks = {
            "features": not path.is_absolute() and ".." not in path.parts and path.suffix == ".safetensors",
            "frames": self.frames >= 1,
            "width": self.width > 0,
            "height": self.height > 0,
            "fps": 0 < self.fps <= 240,
            "start": self.start >= 0,
            "duration": self.duration > 0,
            "expression": 0 <= self.expression <= 1,
            "body": 0 <= self.body <= 1,
            "people": 1 <= self.people <= MAX_PEOPLE_PER_CLIP,
        }
        for name, valid in checks.items():
            if not valid:
                value = getattr(self, name)
                raise InputError(
                    f"clip '{self.clip}': {name} is {value!r}, which is out of range",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=value,
                )


@dataclass(frozen=True)
class Rejection:
    """One line of rejected.jsonl."""

    video: str
    start: float
    """Seconds from the video's first frame; 0 for the whole video."""
    reason: RejectionReason
    detail: str
    """The measured value and the limit, as text."""
    measured: dict[str, float] = field(default_factory=dict)
    """What was measured before the clip was rejected, by the names of `ClipRecord`, and the number of people. Lines of
    earlier releases, of whole videos and of scenes lack it."""


class ClipRejected(Exception):  # noqa: N818  (not an error: the clip is left out)
    """Stops the preparation of a clip that cannot be used.

    Args:
        reason: the reason that rejected.jsonl records.
        detail: the measured value and the limit, as in `Rejection.detail`.

    Attributes:
        measured: what was measured before, as in `Rejection.measured`.
    """

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
        self.measured: Mapping[str, float] = {}


RecordT = TypeVar("RecordT", ClipRecord, Rejection)
_DEFAULTS = {item.name: item.default for item in fields(ClipRecord) if item.default is not MISSING} | {"measured": {}}


def write_records(path: Path, records: Iterable[ClipRecord | Rejection]) -> None:
    """Writes records sorted by video and start, one JSON object per line, completely or not at all."""
    ordered = sorted(records, key=lambda line: (line.video, line.start))
    lines = []
    for record in ordered:
        values = {name: value for name, value in asdict(record).items() if value != _DEFAULTS.get(name)}
        lines.append(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
    atomic_write_text(path, "".join(lines))


def read_manifest(path: str | Path) -> list[ClipRecord]:
    """Reads the clips of a manifest.jsonl, in its order.

    Raises:
        InputError: the file is missing or empty, or a line is not a clip; names the line.
    """
    records = list(_read_lines(path, "manifest", ClipRecord))
    if not records:
        raise InputError(
            f"manifest '{path}' has no clip; {REJECTIONS_FILE} beside it lists the reasons",
            code=ErrorCode.malformed_file,
            field="path",
            value=str(path),
        )
    return records


def corpus_face_ranges(records: Iterable[ClipRecord]) -> dict[int, FaceRange]:
    """Returns the sizes and places of faces by the number of people in a clip, over the clips that state them."""
    placed = ((record.people, record.face_placement) for record in records)
    return fit_face_ranges((people, placement) for people, placement in placed if placement is not None)


def read_rejections(path: str | Path) -> list[Rejection]:
    """Reads the lines of a rejected.jsonl.

    Raises:
        InputError: the file is missing or a line is not a rejection; names the line.
    """
    return list(_read_lines(path, "list of rejections", Rejection))


def _read_lines(path: str | Path, what: str, record_type: type[RecordT]) -> Iterator[RecordT]:
    for number, line in read_text_lines(path, what, MAX_MANIFEST_BYTES, MAX_LINE_CHARS):
        try:
            yield parse_record(parse_json(line, f"line {number}"), record_type)
        except ValueError as error:
            known = error if isinstance(error, InputError) else InputError("")
            raise InputError(
                f"'{path}' line {number}: {error}; prepare the corpus again",
                code=ErrorCode.malformed_file,
                field=known.field or f"line {number}",
                value=known.value,
            ) from error


def parse_record(values: Any, record_type: type[RecordT]) -> RecordT:
    """Returns the record of the JSON object `values`, with checked keys and types.

    Raises:
        InputError: a required key is missing, a key is unknown, or a value has another type.
    """
    if not isinstance(values, dict):
        raise InputError(
            f"it is a {type(values).__name__}; it must be a JSON object",
            code=ErrorCode.invalid_type,
            value=type(values).__name__,
        )
    known = {item.name: item.type for item in fields(record_type)}
    absent = {name for name in known if name in _DEFAULTS} - values.keys()
    wrong = sorted((known.keys() ^ values.keys()) - absent)
    if wrong:
        missing = wrong[0] in known
        raise InputError(
            f"the key '{wrong[0]}' is {'missing' if missing else 'unknown'}",
            code=ErrorCode.missing_value if missing else ErrorCode.unknown_key,
            field=wrong[0],
        )
    return record_type(**{name: _check_type(name, value, known[name]) for name, value in values.items()})


def _check_type(name: str, value: Any, expected_type: Any) -> Any:
    if expected_type is RejectionReason:
        return RejectionReason(value)
    if expected_type == dict[str, float]:
        if not isinstance(value, dict):
            raise InputError(
                f"{name} is {value!r}; it must be a JSON object",
                code=ErrorCode.invalid_type,
                field=name,
                value=value,
            )
        return {key: _check_type(f"{name}.{key}", number, float) for key, number in value.items()}
    if expected_type in (float | None, str | None):
        if value is None:
            return None
        expected_type = float if expected_type == float | None else str
    if expected_type is float and type(value) is int:
        value = float(value)
    if type(value) is not expected_type or (expected_type is float and not math.isfinite(value)):
        raise InputError(
            f"{name} is {value!r}; it must be a finite value of type {expected_type.__name__}",
            code=ErrorCode.invalid_type,
            field=name,
            value=value,
        )
    return value

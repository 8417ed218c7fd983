"""A frozen benchmark: which stretch of which file counts, at which rate, size and crop; and the id of all that.

A protocol names files, times and hashes. It holds no media, so that it can be passed on where the media must not be.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fantasytalking.errors import InputError
from fantasytalking.evaluation.clip import MAX_FRAMES, Clip, Frame
from fantasytalking.evaluation.truth import TRUTH, true_opening
from fantasytalking.files import existing_file, hash_file, written_whole

FORMAT = 1
"""Rises when a metric's definition changes, so that older results count as those of another protocol."""
MAX_BYTES = 1 << 26
MAX_CLIPS = 100_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class ProtocolClip:
    """One clip of a benchmark."""

    name: str
    """Unique; the prediction is called that."""
    video: str
    """The reference, relative to the folder of references."""
    identity: str
    start: float
    """Seconds from the reference's first frame."""
    frames: int
    """At the protocol's rate."""
    crop: tuple[float, float, float, float] | None
    """left, top, width, height in heights of the reference's picture; None: all of it."""
    sha256: str
    """Of the reference's file."""


@dataclass(frozen=True)
class Protocol:
    """What was frozen."""

    benchmark: str
    fps: float
    width: int
    """Pixels that both sides are brought to."""
    height: int
    surplus: int
    """Frames that a prediction may be longer than its reference; they are cut off."""
    clips: tuple[ProtocolClip, ...]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits: equal for equal protocols alone."""
        values = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(values.encode()).hexdigest()[:12]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}

    def duration(self, clip: ProtocolClip) -> float:
        """Seconds of a clip."""
        return clip.frames / self.fps

    def reference(self, clip: ProtocolClip, folder: Path) -> Clip:
        """The real side of a clip."""
        frame = Frame(clip.crop, self.width, self.height)
        path = folder / PurePosixPath(clip.video)
        length = self.duration(clip)
        real = Clip.from_file(
            path, name=clip.name, fps=self.fps, start=clip.start, duration=length, frame=frame, count=clip.frames
        )
        return self._told(clip, real, folder)

    def prediction(self, clip: ProtocolClip, path: Path, references: Path) -> Clip:
        """The other side of a clip; its frames are taken as they stand, from the first on."""
        frame = Frame(None, self.width, self.height)
        made = Clip.from_file(path, name=clip.name, duration=self.duration(clip), frame=frame, count=clip.frames)
        return self._told(clip, made, references)

    def _told(self, clip: ProtocolClip, video: Clip, references: Path) -> Clip:
        """The clip with what is known of its reference's every frame, where somebody drew it."""
        truth = (references / PurePosixPath(clip.video)).with_name(TRUTH)
        return video.with_truth(lambda: true_opening(truth, self.fps, clip.start)) if truth.is_file() else video

    def save(self, path: Path) -> None:
        """Writes it as JSON, a line a clip."""
        values = self.as_json()
        clips = values.pop("clips")
        head = json.dumps({"id": self.id, **values}, ensure_ascii=False)[:-1]
        lines = ",\n".join(json.dumps(clip, ensure_ascii=False) for clip in clips)
        with written_whole(path) as temporary:
            temporary.write_text(f'{head}, "clips": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Protocol":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, too large, not a protocol of this format, or its id is not its own.
        """
        path = existing_file(path, "benchmark manifest")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"'{path}' has {path.stat().st_size} bytes; a benchmark manifest has at most {MAX_BYTES}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            protocol = _protocol(values)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{path}' is no benchmark manifest ({error}); make one with make_benchmark.py") from error
        if values.get("format") != FORMAT or values.get("id") != protocol.id:
            raise InputError(
                f"'{path}' says format {values.get('format')} and id {values.get('id')}, and it is format {FORMAT} and "
                f"id {protocol.id}: it was changed by hand or made by another version; make it again"
            )
        return protocol


def _protocol(values: Any) -> Protocol:
    clips = tuple(_clip(clip) for clip in values["clips"])
    names = {clip.name for clip in clips}
    if not 0 < len(clips) <= MAX_CLIPS or len(names) != len(clips):
        raise ValueError(f"{len(clips)} clips of {len(names)} names")
    protocol = Protocol(
        benchmark=str(values["benchmark"]),
        fps=float(values["fps"]),
        width=int(values["width"]),
        height=int(values["height"]),
        surplus=int(values["surplus"]),
        clips=clips,
    )
    if not (1 <= protocol.fps <= 120 and min(protocol.width, protocol.height) >= 16 and protocol.surplus >= 0):
        raise ValueError(f"{protocol.width}x{protocol.height} at {protocol.fps} frames a second")
    if max(protocol.width, protocol.height) > 4096:
        raise ValueError(f"{protocol.width}x{protocol.height} pixels")
    return protocol


def _clip(values: Any) -> ProtocolClip:
    crop = values["crop"]
    clip = ProtocolClip(
        name=str(values["name"]),
        video=str(values["video"]),
        identity=str(values["identity"]),
        start=float(values["start"]),
        frames=int(values["frames"]),
        crop=None if crop is None else _four(crop),
        sha256=str(values["sha256"]),
    )
    place = PurePosixPath(clip.video)
    if not NAME.fullmatch(clip.name) or place.is_absolute() or ".." in place.parts:
        raise ValueError(f"clip '{clip.name}' of '{clip.video}'")
    if not (
        1 <= clip.frames <= MAX_FRAMES and 0 <= clip.start < math.inf and re.fullmatch("[0-9a-f]{64}", clip.sha256)
    ):
        raise ValueError(f"clip '{clip.name}': {clip.frames} frames from {clip.start} s, sha256 {clip.sha256!r}")
    return clip


def _four(crop: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = (float(share) for share in crop)
    if not (min(left, top) >= 0 and min(width, height) > 0 and max(left, top, width, height) < 100):
        raise ValueError(f"crop {crop}")
    return left, top, width, height


def check_reference(clip: ProtocolClip, references: Path) -> Path:
    """The file of a clip's reference.

    Raises:
        InputError: it is another file than the one that was frozen.
    """
    path = references / PurePosixPath(clip.video)
    if hash_file(path) != clip.sha256:
        raise InputError(f"reference '{path}' is not the file that the protocol was made for")
    return path

"""A frozen benchmark: which stretch of which file counts, at which rate, size and crop; and the id of all that.

A protocol names files, times and hashes. It holds no media, so that it can be passed on where the media must not be.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.evaluation.benchmark.media_source import (
    MAX_SOURCE_FACES,
    MediaSource,
    check_relative_path,
    parse_crop,
    parse_source,
)
from fantasytalking.evaluation.evaluation_clip import MAX_CLIP_FRAMES, CropAndResize, EvaluationClip
from fantasytalking.evaluation.ground_truth import TRUTH_FILE, GroundTruth, load_ground_truth

PROTOCOL_FORMAT = 1
"""Rises when a metric's definition changes, so that older results count as those of another protocol."""
MAX_PROTOCOL_BYTES = 1 << 26
MAX_BENCHMARK_CLIPS = 100_000
CLIP_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


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
    portrait: MediaSource | None = None
    """The picture that the video is made from; None: the reference's first frame."""
    drivers: tuple[MediaSource, ...] = ()
    """Videos of those who drive the people in the picture, from left to right; none: it is the sound that drives."""


@dataclass(frozen=True)
class BenchmarkProtocol:
    """What was frozen."""

    benchmark: str
    fps: float
    width: int
    """Pixels that both sides are brought to."""
    height: int
    surplus: int
    """Frames that a prediction may be longer than its reference; they are cut off."""
    clips: tuple[ProtocolClip, ...]
    answered: bool = True
    """Whether references show what predictions must show. If not, they are those who drive."""

    @property
    def is_reenactment(self) -> bool:
        """Whether it is a benchmark of reenactment."""
        return any(clip.drivers for clip in self.clips)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits: equal for equal protocols alone."""
        values = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(values.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """As plain values; what only reenactment has is left out elsewhere, so that older ids hold."""
        values = json.loads(json.dumps(asdict(self)))
        values["clips"] = [
            {key: value for key, value in clip.items() if key not in ("portrait", "drivers") or value}
            for clip in values["clips"]
        ]
        if values["answered"]:
            del values["answered"]
        return {"format": PROTOCOL_FORMAT, **values}

    def duration(self, clip: ProtocolClip) -> float:
        """Seconds of a clip."""
        return clip.frames / self.fps

    def reference_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip:
        """The real side of a clip; where nobody knows that, those who drive."""
        if not self.answered and (driver := self.driver_clip(clip, folder)) is not None:
            return driver
        frame = CropAndResize(clip.crop, self.width, self.height)
        path = folder / PurePosixPath(clip.video)
        length = self.duration(clip)
        real = EvaluationClip.from_file(
            path,
            name=clip.name,
            fps=self.fps,
            start=clip.start,
            duration=length,
            transform=frame,
            frame_count=clip.frames,
        )
        return self._with_ground_truth(clip, real, folder)

    def prediction_clip(self, clip: ProtocolClip, path: Path, references: Path) -> EvaluationClip:
        """The other side of a clip; its frames are taken as they stand, from the first on."""
        frame = CropAndResize(None, self.width, self.height)
        made = EvaluationClip.from_file(
            path, name=clip.name, duration=self.duration(clip), transform=frame, frame_count=clip.frames
        )
        return self._with_ground_truth(clip, made, references)

    def driver_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip | None:
        """Those who drive the people of a clip; None where the sound does, or they are those of the reference."""
        if not clip.drivers or clip.portrait is None:
            return None
        performances: dict[str, EvaluationClip] = {}
        for source in clip.drivers:
            if source.file not in performances:
                performances[source.file] = self._driver_video(source, clip, folder)
        everyone = [performances[source.file].people for source in clip.drivers]
        return EvaluationClip.merge_people(
            [people[source.face] for people, source in zip(everyone, clip.drivers, strict=True)]
        )

    def _driver_video(self, source: MediaSource, clip: ProtocolClip, folder: Path) -> EvaluationClip:
        """All people of a driver's video."""
        seen = source if source.faces == 1 else replace(source, crop=None)
        video = seen.driver_clip(folder, clip.name, self.fps, clip.frames, self.height)
        truths = [self._truth_loader(replace(source, face=face), folder) for face in range(source.faces)]
        if len(truths) > 1:
            return video.with_people(truths)
        return video if truths[0] is None else video.with_ground_truth(truths[0])

    def portrait_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip | None:
        """The picture that a clip is made from; None: it is the reference's first frame."""
        if clip.portrait is None:
            return None
        still = clip.portrait.portrait_clip(folder, clip.name, self.fps, self.width, self.height)
        return still.with_people([None] * len(clip.drivers)) if len(clip.drivers) > 1 else still

    def _with_ground_truth(self, clip: ProtocolClip, video: EvaluationClip, references: Path) -> EvaluationClip:
        """The clip with what is known of its every frame, where somebody drew what it retells."""
        truths = [self._truth_loader(driver, references) for driver in clip.drivers]
        if len(truths) > 1:
            return video.with_people(truths)
        truth = (
            truths[0]
            if truths
            else self._truth_loader(MediaSource(clip.video, clip.sha256, start=clip.start), references)
        )
        return video if truth is None else video.with_ground_truth(truth)

    def _truth_loader(self, source: MediaSource, references: Path) -> Callable[[], GroundTruth] | None:
        path = (references / PurePosixPath(source.file)).with_name(TRUTH_FILE)
        return partial(load_ground_truth, path, self.fps, source.start, source.face) if path.is_file() else None

    def save(self, path: Path) -> None:
        """Writes it as JSON, a line a clip."""
        values = self.to_dict()
        clips = values.pop("clips")
        head = json.dumps({"id": self.id, **values}, ensure_ascii=False)[:-1]
        lines = ",\n".join(json.dumps(clip, ensure_ascii=False) for clip in clips)
        with atomic_write(path) as temporary:
            temporary.write_text(f'{head}, "clips": [\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "BenchmarkProtocol":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, too large, not a protocol of this format, or its id is not its own.
        """
        path = existing_file(path, "benchmark manifest")
        if path.stat().st_size > MAX_PROTOCOL_BYTES:
            raise InputError(
                f"'{path}' has {path.stat().st_size} bytes; a benchmark manifest has at most {MAX_PROTOCOL_BYTES}"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            protocol = _parse_protocol(values)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{path}' is no benchmark manifest ({error}); make one with make_benchmark.py") from error
        if values.get("format") != PROTOCOL_FORMAT or values.get("id") != protocol.id:
            raise InputError(
                f"'{path}' says format {values.get('format')} and id {values.get('id')}, and it is format "
                f"{PROTOCOL_FORMAT} and "
                f"id {protocol.id}: it was changed by hand or made by another version; make it again"
            )
        return protocol


def _parse_protocol(values: Any) -> BenchmarkProtocol:
    clips = tuple(_parse_clip(clip) for clip in values["clips"])
    names = {clip.name for clip in clips}
    if not 0 < len(clips) <= MAX_BENCHMARK_CLIPS or len(names) != len(clips):
        raise ValueError(f"{len(clips)} clips of {len(names)} names")
    protocol = BenchmarkProtocol(
        benchmark=str(values["benchmark"]),
        fps=float(values["fps"]),
        width=int(values["width"]),
        height=int(values["height"]),
        surplus=int(values["surplus"]),
        clips=clips,
        answered=bool(values.get("answered", True)),
    )
    if not (1 <= protocol.fps <= 120 and min(protocol.width, protocol.height) >= 16 and protocol.surplus >= 0):
        raise ValueError(f"{protocol.width}x{protocol.height} at {protocol.fps} frames a second")
    if max(protocol.width, protocol.height) > 4096:
        raise ValueError(f"{protocol.width}x{protocol.height} pixels")
    return protocol


def _parse_clip(values: Any) -> ProtocolClip:
    crop = values["crop"]
    clip = ProtocolClip(
        name=str(values["name"]),
        video=str(values["video"]),
        identity=str(values["identity"]),
        start=float(values["start"]),
        frames=int(values["frames"]),
        crop=None if crop is None else parse_crop(crop),
        sha256=str(values["sha256"]),
        portrait=parse_source(values["portrait"]) if "portrait" in values else None,
        drivers=tuple(parse_source(driver) for driver in values.get("drivers", ())),
    )
    check_relative_path(clip.video)
    if not CLIP_NAME_PATTERN.fullmatch(clip.name) or len(clip.drivers) > MAX_SOURCE_FACES:
        raise ValueError(f"clip '{clip.name}' of '{clip.video}' with {len(clip.drivers)} drivers")
    if not (
        1 <= clip.frames <= MAX_CLIP_FRAMES and 0 <= clip.start < math.inf and re.fullmatch("[0-9a-f]{64}", clip.sha256)
    ):
        raise ValueError(f"clip '{clip.name}': {clip.frames} frames from {clip.start} s, sha256 {clip.sha256!r}")
    return clip


def verify_references(clip: ProtocolClip, references: Path) -> Path:
    """The file of a clip's reference.

    Raises:
        InputError: it, the portrait or a driver is another file than the one that was frozen.
    """
    for source in (clip.portrait, *clip.drivers):
        if source is not None:
            source.verified_path(references)
    return MediaSource(clip.video, clip.sha256).verified_path(references)

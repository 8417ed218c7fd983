"""A frozen benchmark: the segments of the reference files, with frame rate, size and crops, and its id.

A protocol contains names, times and hashes of files, but no media, so it can be shared where the media cannot.
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

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.limits import MAX_BENCHMARK_CLIPS, MAX_BENCHMARK_SIDE, MAX_CLIP_FRAMES, MAX_PROTOCOL_BYTES
from fantasytalking.common.text_files import read_json
from fantasytalking.evaluation.benchmark.media_source import (
    MAX_SOURCE_FACES,
    MediaSource,
    check_relative_path,
    parse_crop,
    parse_source,
)
from fantasytalking.evaluation.evaluation_clip import CropAndResize, EvaluationClip
from fantasytalking.evaluation.ground_truth import TRUTH_FILE, GroundTruth, load_ground_truth

PROTOCOL_FORMAT = 1
"""Version of the format. It increases when the definition of a metric changes: older results then count as those of
another protocol."""
CLIP_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class ProtocolClip:
    """One clip of a benchmark."""

    name: str
    """Unique name, which the prediction has too."""
    video: str
    """Path of the reference relative to the folder of references."""
    identity: str
    """Person in the clip."""
    start: float
    """Start of the segment in seconds from the reference's first frame."""
    frames: int
    """Number of frames at the protocol's rate."""
    crop: tuple[float, float, float, float] | None
    """left, top, width, height in heights of the reference's image; None = the whole image."""
    sha256: str
    """Hash of the reference's file, hexadecimal."""
    portrait: MediaSource | None = None
    """The image that the video is generated from; None = the reference's first frame."""
    drivers: tuple[MediaSource, ...] = ()
    """Driving videos of the people in the image, from left to right; empty if the audio drives."""


@dataclass(frozen=True)
class BenchmarkProtocol:
    """The clips of a frozen benchmark and the settings that they share."""

    benchmark: str
    """Name of the benchmark."""
    fps: float
    """Frames per second of references and predictions."""
    width: int
    """Width in pixels that both sides are resized to."""
    height: int
    """Height in pixels that both sides are resized to."""
    surplus: int
    """Number of frames that a prediction may be longer than its reference; they are cut off."""
    clips: tuple[ProtocolClip, ...]
    answered: bool = True
    """Whether the references are the ground truth of the predictions. If not, they are the driving videos."""

    @property
    def is_reenactment(self) -> bool:
        """Whether driving videos determine the motion."""
        return any(clip.drivers for clip in self.clips)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal only for equal protocols."""
        values = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(values.encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; entries of reenactment are left out elsewhere, so that older ids stay valid."""
        values = json.loads(json.dumps(asdict(self)))
        values["clips"] = [
            {key: value for key, value in clip.items() if key not in ("portrait", "drivers") or value}
            for clip in values["clips"]
        ]
        if values["answered"]:
            del values["answered"]
        return {"format": PROTOCOL_FORMAT, **values}

    def duration(self, clip: ProtocolClip) -> float:
        """Returns the length of a clip in seconds."""
        return clip.frames / self.fps

    def reference_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip:
        """Returns the reference of a clip, or its driving videos if there is no ground truth."""
        if not self.answered and (driver := self.driver_clip(clip, folder)) is not None:
            return driver
        reference = EvaluationClip.from_file(
            folder / PurePosixPath(clip.video),
            name=clip.name,
            fps=self.fps,
            start=clip.start,
            duration=self.duration(clip),
            transform=CropAndResize(clip.crop, self.width, self.height),
            frame_count=clip.frames,
        )
        return self._with_ground_truth(clip, reference, folder)

    def prediction_clip(self, clip: ProtocolClip, path: Path, references: Path) -> EvaluationClip:
        """Returns the prediction of a clip: the first frames of the file, not resampled."""
        transform = CropAndResize(None, self.width, self.height)
        prediction = EvaluationClip.from_file(
            path, name=clip.name, duration=self.duration(clip), transform=transform, frame_count=clip.frames
        )
        return self._with_ground_truth(clip, prediction, references)

    def driver_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip | None:
        """Returns the driving videos of a clip; None if the audio drives, or the people of the reference."""
        if not clip.drivers or clip.portrait is None:
            return None
        videos: dict[str, EvaluationClip] = {}
        for source in clip.drivers:
            if source.file not in videos:
                videos[source.file] = self._driver_video(source, clip, folder)
        everyone = [videos[source.file].people for source in clip.drivers]
        return EvaluationClip.merge_people(
            [people[source.face] for people, source in zip(everyone, clip.drivers, strict=True)]
        )

    def _driver_video(self, source: MediaSource, clip: ProtocolClip, folder: Path) -> EvaluationClip:
        """Returns a driving video with all people in it."""
        whole = source if source.faces == 1 else replace(source, crop=None)
        video = whole.driver_clip(folder, clip.name, self.fps, clip.frames, self.height)
        truths = [self._truth_loader(replace(source, face=face), folder) for face in range(source.faces)]
        if len(truths) > 1:
            return video.with_people(truths)
        return video if truths[0] is None else video.with_ground_truth(truths[0])

    def portrait_clip(self, clip: ProtocolClip, folder: Path) -> EvaluationClip | None:
        """Returns the image that a clip is generated from; None if it is the reference's first frame."""
        if clip.portrait is None:
            return None
        portrait = clip.portrait.portrait_clip(folder, clip.name, self.fps, self.width, self.height)
        return portrait.with_people([None] * len(clip.drivers)) if len(clip.drivers) > 1 else portrait

    def _with_ground_truth(self, clip: ProtocolClip, video: EvaluationClip, references: Path) -> EvaluationClip:
        """Returns the clip with the ground truth of its frames, if its source was rendered."""
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
        """Writes the protocol as JSON, one line per clip."""
        values = self.to_dict()
        clips = values.pop("clips")
        head = json.dumps({"id": self.id, **values}, ensure_ascii=False)[:-1]
        lines = ",\n".join(json.dumps(clip, ensure_ascii=False) for clip in clips)
        atomic_write_text(path, f'{head}, "clips": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: str | Path) -> "BenchmarkProtocol":
        """Loads a protocol written by `save`.

        Raises:
            InputError: the file is missing, too large, not a protocol of this format, or has the id of another one.
        """
        values = read_json(path, "benchmark manifest", MAX_PROTOCOL_BYTES, allow_nan=False)
        try:
            protocol = _parse_protocol(values)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' is not a benchmark manifest ({error}); make one with make_benchmark.py",
                code=ErrorCode.malformed_file,
                field="manifest",
                value=str(path),
            ) from error
        for name, expected in (("format", PROTOCOL_FORMAT), ("id", protocol.id)):
            if values.get(name) != expected:
                raise InputError(
                    f"'{path}' has {name} {values.get(name)}, but must have {expected}: it was edited by hand or made "
                    "by another version; make it again with make_benchmark.py",
                    code=ErrorCode.conflict,
                    field=name,
                    value=values.get(name),
                )
        return protocol


def _parse_protocol(values: Any) -> BenchmarkProtocol:
    clips = tuple(_parse_clip(clip) for clip in values["clips"])
    names = {clip.name for clip in clips}
    if not 0 < len(clips) <= MAX_BENCHMARK_CLIPS or len(names) != len(clips):
        raise ValueError(f"{len(clips)} clips with {len(names)} names")
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
        raise ValueError(f"{protocol.width}x{protocol.height} at {protocol.fps} frames per second")
    if max(protocol.width, protocol.height) > MAX_BENCHMARK_SIDE:
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
    """Compares the hashes of a clip's reference, portrait and drivers, and returns the path of the reference.

    Raises:
        InputError: a file is missing, or is not the one that was frozen.
    """
    for source in (clip.portrait, *clip.drivers):
        if source is not None:
            source.verified_path(references)
    return MediaSource(clip.video, clip.sha256).verified_path(references)

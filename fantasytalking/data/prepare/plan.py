"""Plans the clips of a folder of videos: its files, their time ranges, and the clips of every scene."""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fantasytalking import media
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_LINE_CHARS, MAX_SOURCE_SECONDS, MAX_TIME_RANGES_BYTES
from fantasytalking.common.resources import resource_path
from fantasytalking.common.text import utf8_bytes
from fantasytalking.common.text_files import parse_json, read_text_lines
from fantasytalking.data.manifest import Rejection, RejectionReason
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.scenes import SpanScan, iter_scenes, span_starts, video_end

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"])


class RelativeCrop(NamedTuple):
    """A crop of the frame in units of its height, so that it is independent of the resolution."""

    left: float
    top: float
    width: float
    height: float

    @property
    def digest(self) -> str:
        """Six hexadecimal digits that distinguish clips of one video with different crops.

        The hashed text is part of every clip name of existing corpora and must not change.
        """
        left, top, width, height = self
        text = f"Crop({left=!r}, {top=!r}, {width=!r}, {height=!r})"
        return hashlib.sha256(text.encode()).hexdigest()[:6]


class TimeRange(NamedTuple):
    """A segment of a video to use."""

    start: float
    """Seconds from the first frame."""
    end: float
    """Seconds from the first frame."""
    crop: RelativeCrop | None
    """Part of the frame; None uses the whole frame."""


@dataclass(frozen=True)
class VideoFile:
    """A video of the input folder."""

    path: Path
    video: str
    """Path within the input folder, with forward slashes."""
    size: int
    """Size in bytes: a file that is replaced by another one is prepared again."""

    @property
    def name(self) -> str:
        """Unique name, safe for file systems."""
        digest = hashlib.sha256(utf8_bytes(f"{self.video}\0{self.size}")).hexdigest()[:10]
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", PurePosixPath(self.video).with_suffix("").as_posix())[-60:]
        return f"{digest[:2]}-{stem.strip('-')}-{digest[2:]}"

    def error_detail(self, error: InputError) -> str:
        """Returns the message of an error about this file without the path of the input folder."""
        return str(error).replace(str(self.path), self.video)


@dataclass(frozen=True)
class VideoSpan:
    """A minute of a video that is scanned for scene cuts."""

    file: VideoFile
    start: float
    """Seconds from the first frame."""

    @property
    def name(self) -> str:
        """Unique name, derived from the video and the start in seconds."""
        return f"{self.file.name}_{self.start:05.0f}"


@dataclass(frozen=True)
class SceneClip:
    """A segment of one scene with the length of a clip."""

    file: VideoFile
    start: float
    """Seconds from the first frame."""
    crop: RelativeCrop | None
    """Part of the frame; None uses the whole frame."""

    @property
    def name(self) -> str:
        """Unique name, derived from the video, the start in milliseconds and the crop."""
        suffix = "" if self.crop is None else f"-{self.crop.digest}"
        return f"{self.file.name}_{round(self.start * 1000):08d}{suffix}"


def find_videos(folder: Path, time_ranges: Mapping[str, list[TimeRange]] | None) -> list[VideoFile]:
    """Returns all videos below `folder`, sorted by path; hidden files and linked folders are skipped.

    Args:
        folder: the input folder.
        time_ranges: the videos to use, by name, with or without the subfolder and with or without the suffix; None uses
            all videos.

    Raises:
        InputError: the folder does not exist, or contains no video.
    """
    if not folder.is_dir():
        raise InputError(
            f"input '{folder}' is not a folder; give a folder of videos",
            code=ErrorCode.missing_file,
            field="--input",
            value=str(folder),
        )
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(parent) / name
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".") and path.is_file():
                found.append(VideoFile(path, path.relative_to(folder).as_posix(), path.stat().st_size))
    if time_ranges is not None:
        found = [file for file in found if time_ranges_for(file, time_ranges)]
    if not found:
        listed = "" if time_ranges is None else " that time_ranges names"
        raise InputError(
            f"input '{folder}' contains no video{listed}; supported are {', '.join(sorted(VIDEO_SUFFIXES))}",
            code=ErrorCode.missing_file,
            field="--input" if time_ranges is None else "time_ranges",
            value=str(folder),
        )
    return sorted(found, key=lambda file: file.video)


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(
        f"input folder '{os.fsdecode(error.filename)}' cannot be read: {error.strerror}; check its permissions, or "
        "move it elsewhere",
        code=ErrorCode.missing_file,
        field="--input",
        value=os.fsdecode(error.filename),
    ) from error


def read_time_ranges(path: str | Path) -> dict[str, list[TimeRange]]:
    """Reads time ranges by video from JSON Lines of {video, start, end, crop, crop_of_height}.

    `crop` is [x, y, width, height] in pixels of the video at a height of `crop_of_height` pixels; null is the whole
    frame.

    Raises:
        InputError: the file is missing, or a line is not a time range; names the line.
    """
    ranges: dict[str, list[TimeRange]] = {}
    lines = read_text_lines(resource_path(path), "time_ranges", MAX_TIME_RANGES_BYTES, MAX_LINE_CHARS)
    for number, line in lines:
        try:
            video, found = _parse_time_range(parse_json(line, f"line {number}"))
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise InputError(
                f"'{path}' line {number} is not a time range of a video ({error!r}); correct it",
                code=ErrorCode.malformed_file,
                field="time_ranges",
                value=number,
            ) from error
        known = ranges.setdefault(video, [])
        if found not in known:  # a repeated line is one clip
            known.append(found)
    return ranges


def _parse_time_range(values: Any) -> tuple[str, TimeRange]:
    start, end = float(values["start"]), float(values["end"])
    if not 0 <= start < end <= MAX_SOURCE_SECONDS:
        raise ValueError(f"start {start}, end {end}")
    if values["crop"] is None:
        return str(values["video"]), TimeRange(start, end, None)
    crop = RelativeCrop(*(float(value) / float(values["crop_of_height"]) for value in values["crop"]))
    fits = 0 < crop.width < 100 and 0 < crop.height <= 1 - crop.top + 1e-9
    if not (all(map(math.isfinite, crop)) and min(crop) >= 0 and fits):
        raise ValueError(f"crop {values['crop']}")
    return str(values["video"]), TimeRange(start, end, crop)


def time_ranges_for(file: VideoFile, time_ranges: Mapping[str, list[TimeRange]] | None) -> list[TimeRange]:
    """Returns the time ranges of a video, sorted; without `time_ranges`, the whole video."""
    if time_ranges is None:
        return [TimeRange(0.0, MAX_SOURCE_SECONDS, None)]
    path = PurePosixPath(file.video)
    names = (path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem)
    found = next((time_ranges[name] for name in names if name in time_ranges), [])
    return sorted(found, key=lambda item: (item.start, item.end))


def probe_video(file: VideoFile, config: PreparationConfig) -> dict[str, Any]:
    """Returns {"duration": seconds} for a usable video, {"reason", "detail"} for others."""
    try:
        info = media.probe(file.path)
    except InputError as error:
        return _rejection(RejectionReason.UNREADABLE, file.error_detail(error))
    if not info.has_video:
        return _rejection(RejectionReason.UNREADABLE, "there is no video track")
    if info.duration > MAX_SOURCE_SECONDS:
        return _rejection(RejectionReason.TOO_LONG, f"{info.duration:.0f} s; the limit is {MAX_SOURCE_SECONDS:.0f} s")
    if not info.has_audio:
        return _rejection(RejectionReason.NO_AUDIO, "there is no audio track")
    min_fps = config.min_fps_ratio * config.fps
    if info.fps < min_fps:
        return _rejection(RejectionReason.LOW_FRAME_RATE, f"{info.fps:.2f} fps; at least {min_fps:.2f} are needed")
    return {"duration": info.duration}


def _rejection(reason: RejectionReason, detail: str) -> dict[str, Any]:
    return {"reason": reason.value, "detail": detail}


def spans_to_scan(file: VideoFile, duration: float, ranges: list[TimeRange]) -> list[VideoSpan]:
    """Returns the spans of a video that overlap a time range."""
    starts = span_starts(duration)
    return [
        VideoSpan(file, start)
        for start, stop in zip(starts, [*starts[1:], MAX_SOURCE_SECONDS], strict=True)
        if any(item.start < stop and start < item.end for item in ranges)
    ]


def plan_video(
    file: VideoFile, scans: list[SpanScan], ranges: list[TimeRange], config: PreparationConfig
) -> Iterator[SceneClip | Rejection]:
    """Yields the clips of a video, and rejections for scenes that are too short and where the video breaks off."""
    if not scans:
        yield Rejection(file.video, 0.0, RejectionReason.TOO_SHORT, "the time range is after the end of the video")
        return
    for item in ranges:
        for start, end in iter_scenes(scans, item.start, item.end):
            yield from _plan_scene(file, start, end, item.crop, config)
    broken = next((scan.error for scan in scans if scan.error), "")
    if broken:
        yield Rejection(file.video, round(video_end(scans), 6), RejectionReason.DAMAGED, broken)


def _plan_scene(
    file: VideoFile, start: float, end: float, crop: RelativeCrop | None, config: PreparationConfig
) -> Iterator[SceneClip | Rejection]:
    # A tolerance of a quarter of a frame, for timestamps that are rounded to milliseconds.
    usable = end - start + 0.25 / config.fps
    if usable < config.duration:
        detail = f"the scene has {end - start:.2f} s; a clip needs {config.duration:.2f} s"
        yield Rejection(file.video, round(start, 6), RejectionReason.TOO_SHORT, detail)
        return
    for index in range(int((usable - config.duration) * config.fps / config.clip_stride) + 1):
        yield SceneClip(file, round(start + index * config.clip_stride / config.fps, 6), crop)

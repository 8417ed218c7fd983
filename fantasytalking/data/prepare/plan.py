"""Which clips a folder of videos has: its files, their time ranges, and the clips of every scene."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.resources import resource_path
from fantasytalking.data.manifest import Rejection, RejectionReason
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.scenes import SpanScan, iter_scenes, span_starts, video_end

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"])
MAX_SOURCE_SECONDS = 12 * 3600.0


class RelativeCrop(NamedTuple):
    """A part of the picture. All numbers are in heights of the picture, so that they hold at every resolution."""

    left: float
    top: float
    width: float
    height: float

    @property
    def digest(self) -> str:
        """Six hexadecimal digits that tell clips of one video with different crops apart."""
        left, top, width, height = self
        text = f"Crop({left=!r}, {top=!r}, {width=!r}, {height=!r})"
        return hashlib.sha256(text.encode()).hexdigest()[:6]


class TimeRange(NamedTuple):
    """A stretch of a video that is wanted, in seconds, and the part of the picture; None: all of it."""

    start: float
    end: float
    crop: RelativeCrop | None


@dataclass(frozen=True)
class VideoFile:
    """A video of the input folder."""

    path: Path
    video: str
    """The path within the input folder, with forward slashes."""
    size: int
    """Bytes: a file that was replaced by another is prepared anew."""

    @property
    def name(self) -> str:
        digest = hashlib.sha256(f"{self.video}\0{self.size}".encode()).hexdigest()[:10]
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", PurePosixPath(self.video).with_suffix("").as_posix())[-60:]
        return f"{digest[:2]}-{stem.strip('-')}-{digest[2:]}"

    def error_detail(self, error: InputError) -> str:
        """An error about this file, without the place of the input folder, which is not the corpus' business."""
        return str(error).replace(str(self.path), self.video)


@dataclass(frozen=True)
class VideoSpan:
    """A minute of a video, to be searched for scene cuts."""

    file: VideoFile
    start: float

    @property
    def name(self) -> str:
        return f"{self.file.name}_{self.start:05.0f}"


@dataclass(frozen=True)
class SceneClip:
    """A stretch of one scene, as long as clips are."""

    file: VideoFile
    start: float
    crop: RelativeCrop | None

    @property
    def name(self) -> str:
        suffix = "" if self.crop is None else f"-{self.crop.digest}"
        return f"{self.file.name}_{round(self.start * 1000):08d}{suffix}"


def find_videos(folder: Path, time_ranges: Mapping[str, list[TimeRange]] | None) -> list[VideoFile]:
    """All videos below `folder` in the order of their names; hidden files and linked folders are passed over.

    Args:
        time_ranges: the only videos to use, by name: with or without the folders below `folder`, with or without
            suffix; None for all.

    Raises:
        InputError: there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise InputError(f"input '{folder}' is not a folder; give a folder of videos")
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place) / name
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".") and path.is_file():
                found.append(VideoFile(path, path.relative_to(folder).as_posix(), path.stat().st_size))
    if time_ranges is not None:
        found = [file for file in found if time_ranges_for(file, time_ranges)]
    if not found:
        among = "" if time_ranges is None else " that the file of ranges names"
        raise InputError(f"input '{folder}' holds no video{among}; looked for {', '.join(sorted(VIDEO_SUFFIXES))}")
    return sorted(found, key=lambda file: file.video)


def read_time_ranges(path: str | Path) -> dict[str, list[TimeRange]]:
    """Wanted stretches by video, from JSON Lines of {video, start, end, crop, crop_of_height}.

    `crop` is [x, y, width, height] in pixels of the video at a height of `crop_of_height` pixels; null stands for the
    whole picture.

    Raises:
        InputError: the file is missing or a line is not of that kind; names the line.
    """
    wanted: dict[str, list[TimeRange]] = {}
    try:
        text = existing_file(resource_path(path), "file of ranges").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text in UTF-8; give a file of ranges, JSON Lines") from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            video, found = _parse_time_range(json.loads(line))
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise InputError(f"'{path}' line {number} is not a range of a video ({error!r})") from error
        stretches = wanted.setdefault(video, [])
        if found not in stretches:  # a line that stands there twice is one clip
            stretches.append(found)
    return wanted


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
    """The wanted stretches of a video, all of it when nothing is said."""
    if time_ranges is None:
        return [TimeRange(0.0, MAX_SOURCE_SECONDS, None)]
    path = PurePosixPath(file.video)
    names = (path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem)
    found = next((time_ranges[name] for name in names if name in time_ranges), [])
    return sorted(found, key=lambda stretch: (stretch.start, stretch.end))


def probe_video(file: VideoFile, config: PreparationConfig) -> dict[str, Any]:
    """{"duration": seconds} of a usable video, or {"reason", "detail"} of one that is not."""
    try:
        info = media.probe(file.path)
    except InputError as error:
        return _rejection(RejectionReason.UNREADABLE, file.error_detail(error))
    if not info.has_video:
        return _rejection(RejectionReason.UNREADABLE, "there is no picture")
    if info.duration > MAX_SOURCE_SECONDS:
        return _rejection(RejectionReason.TOO_LONG, f"{info.duration:.0f} s, the limit is {MAX_SOURCE_SECONDS:.0f} s")
    if not info.has_audio:
        return _rejection(RejectionReason.NO_AUDIO, "there is no sound track")
    if info.fps < config.min_fps_ratio * config.fps:
        least = config.min_fps_ratio * config.fps
        return _rejection(
            RejectionReason.LOW_FRAME_RATE, f"{info.fps:.2f} frames a second, at least {least:.2f} are needed"
        )
    return {"duration": info.duration}


def _rejection(reason: RejectionReason, detail: str) -> dict[str, Any]:
    return {"reason": reason.value, "detail": detail}


def spans_to_scan(file: VideoFile, duration: float, ranges: list[TimeRange]) -> list[VideoSpan]:
    """The spans of a video that a wanted stretch touches."""
    starts = span_starts(duration)
    return [
        VideoSpan(file, start)
        for start, stop in zip(starts, [*starts[1:], MAX_SOURCE_SECONDS], strict=True)
        if any(wanted.start < stop and start < wanted.end for wanted in ranges)
    ]


def plan_video(
    file: VideoFile, scans: list[SpanScan], ranges: list[TimeRange], config: PreparationConfig
) -> Iterator[SceneClip | Rejection]:
    """The clips of a video and, as rejections, the scenes that are too short and the place where it breaks off."""
    if not scans:
        yield Rejection(file.video, 0.0, RejectionReason.TOO_SHORT, "the wanted stretch lies beyond the video's end")
        return
    for wanted in ranges:
        for start, end in iter_scenes(scans, wanted.start, wanted.end):
            yield from _plan_scene(file, start, end, wanted.crop, config)
    broken = next((scan.error for scan in scans if scan.error), "")
    if broken:
        yield Rejection(file.video, round(video_end(scans), 6), RejectionReason.DAMAGED, broken)


def _plan_scene(
    file: VideoFile, start: float, end: float, crop: RelativeCrop | None, config: PreparationConfig
) -> Iterator[SceneClip | Rejection]:
    # A quarter of a frame of tolerance, for time stamps that are rounded to milliseconds.
    usable = end - start + 0.25 / config.fps
    if usable < config.duration:
        detail = f"a scene of {end - start:.2f} s, a clip has {config.duration:.2f} s"
        yield Rejection(file.video, round(start, 6), RejectionReason.TOO_SHORT, detail)
        return
    for index in range(int((usable - config.duration) * config.fps / config.clip_stride) + 1):
        yield SceneClip(file, round(start + index * config.clip_stride / config.fps, 6), crop)

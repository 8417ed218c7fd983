"""Freezes a protocol from a local copy of a dataset of videos: one segment per video, in a fixed order.

Conventions for HDTF and MEAD, which have no official split: 25 frames per second, 512 pixels, one segment of at least
ten seconds per video (MEAD's utterances are shorter), people who are not in the training data, ordered by the md5 of
the video's name.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from fantasytalking import media
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import hash_file
from fantasytalking.common.text import utf8_bytes
from fantasytalking.data.manifest import read_manifest
from fantasytalking.data.prepare.plan import (
    RelativeCrop,
    TimeRange,
    VideoFile,
    find_videos,
    read_time_ranges,
    time_ranges_for,
)
from fantasytalking.evaluation.benchmark.auto_crop import crop_around_faces, load_first_frame
from fantasytalking.evaluation.benchmark.clip_names import ClipNaming, safe_clip_name
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
from fantasytalking.evaluation.benchmark.protocol import CLIP_NAME_PATTERN, BenchmarkProtocol, ProtocolClip


@dataclass(frozen=True)
class CandidateVideo:
    """A video of the dataset."""

    file: VideoFile
    name: str
    identity: str

    @property
    def sort_key(self) -> str:
        """The md5 of the name: the same order on every machine, independent of the content."""
        return hashlib.md5(utf8_bytes(self.name), usedforsecurity=False).hexdigest()


def freeze_videos(benchmark: str, references: Path, config: BenchmarkConfig) -> BenchmarkProtocol:
    """Freezes the protocol of a local copy; equal files and settings give an equal protocol.

    Args:
        benchmark: name of the benchmark.
        references: folder of the dataset's videos.
        config: which clips to use.

    Raises:
        InputError: the folder is missing, no video belongs to the dataset, none is long enough, or two have one name.
    """
    time_ranges = None if config.ranges is None else read_time_ranges(config.ranges)
    candidates = _list_candidates(find_videos(references, time_ranges), config)
    if not candidates:
        raise InputError(
            f"--references '{references}' contains no video of benchmark '{benchmark}' that may be used; paths must "
            "match identity_pattern, and people must not be excluded",
            code=ErrorCode.missing_file,
            field="--references",
            value=str(references),
        )
    check_unique_names([one.name for one in candidates], references)
    segments = {one.name: time_ranges_for(one.file, time_ranges) for one in candidates}
    clips: list[ProtocolClip] = []
    people: Counter[str] = Counter()
    for one in tqdm(candidates, desc="freezing", unit=" videos", dynamic_ncols=True):
        if len(clips) == (config.max_clips or math.inf):
            break
        if people[one.identity] == (config.max_clips_per_identity or math.inf):
            continue
        clip = _freeze_clip(one, segments[one.name], config)
        if clip is not None:
            clips.append(clip)
            people[one.identity] += 1
    if not clips:
        where = f" within the time ranges of '{config.ranges}'" if config.ranges else ""
        raise InputError(
            f"none of {len(candidates)} videos in '{references}' has video and audio for {config.min_seconds:g} s"
            f"{where}; give longer ones or a lower min_seconds",
            code=ErrorCode.out_of_range,
            field="min_seconds",
            value=config.min_seconds,
        )
    return BenchmarkProtocol(benchmark, config.fps, config.width, config.height, config.max_extra_frames, tuple(clips))


def check_unique_names(names: Sequence[str], references: Path) -> None:
    """Checks that no two clips have the same name.

    Raises:
        InputError: two clips have the same name.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"--references '{references}' contains {len(repeated)} names more than once: {', '.join(repeated[:3])}; "
            "remove or rename the copies",
            code=ErrorCode.conflict,
            field="--references",
            value=repeated[0],
        )


def _list_candidates(files: Sequence[VideoFile], config: BenchmarkConfig) -> list[CandidateVideo]:
    """Returns the videos of the dataset without people of the training data, by the md5 of their names."""
    naming = ClipNaming.from_config(config)
    trained = {identity for path in config.training_manifests for identity in _training_identities(Path(path), naming)}
    found = []
    for file in files:
        clip = naming.identify(file.video)
        if clip is None or clip.identity in trained:
            continue
        if config.identities and clip.identity not in config.identities:
            continue
        name = clip.name if CLIP_NAME_PATTERN.fullmatch(clip.name) else safe_clip_name(clip.name)
        found.append(CandidateVideo(file, name, clip.identity))
    return sorted(found, key=lambda one: (one.sort_key, one.name))


def _training_identities(manifest: Path, naming: ClipNaming) -> Iterator[str]:
    for record in read_manifest(manifest):
        clip = naming.identify(record.video)
        if clip is not None:
            yield clip.identity


def _freeze_clip(
    candidate: CandidateVideo, time_ranges: Sequence[TimeRange], config: BenchmarkConfig
) -> ProtocolClip | None:
    """Returns the first segment of a video that is long enough; None without one, or without video and audio.

    A segment without a crop is cropped around its face if the benchmark's images have another aspect ratio.
    """
    path = candidate.file.path
    info = media.probe(path)
    if not (info.has_video and info.has_audio):
        return None
    for segment in time_ranges:
        # A quarter of a frame of tolerance, as in reading: 4.0 s at 25 fps are 100 frames despite rounded timestamps.
        available = math.ceil((min(segment.end, info.duration) - segment.start) * config.fps - 0.25)
        frames = min(available, round(config.max_seconds * config.fps))
        if frames >= config.min_seconds * config.fps - 0.5:
            if segment.crop is None:
                found = crop_around_faces(load_first_frame(path, segment.start), config.width / config.height)
                crop = None if found is None else RelativeCrop(*found)
            else:
                crop = RelativeCrop(*(round(fraction, 6) for fraction in segment.crop))
            return ProtocolClip(
                candidate.name, candidate.file.video, candidate.identity, segment.start, frames, crop, hash_file(path)
            )
    return None

"""From a local copy of a data set to a frozen protocol: one stretch a video, in an order that nobody chose.

Practice for HDTF and MEAD, which have no official split: 25 frames a second, 512 pixels, one stretch of at least ten
seconds a video (MEAD's utterances are shorter), people who are not in training, ordered by the md5 of the video's name.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import hash_file
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
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, DatasetLayout
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip

_MEAD_PATTERN = re.compile(r"(?:^|[/_])([MW]\d{3})[/_]video[/_]front[/_](\w+?)[/_]level_(\d)[/_](\d+)\.\w+$")
_CELEBVHQ_PATTERN = re.compile(r"([A-Za-z0-9_-]{11})_(\d+)")
_PORTRAIT_WORLD_PATTERN = re.compile(r"(?:^|/)((id\d{4})_s\d{4})/video\.mp4$")


@dataclass(frozen=True)
class CandidateVideo:
    """A video that belongs to the data set."""

    file: VideoFile
    name: str
    identity: str

    @property
    def sort_key(self) -> str:
        """The md5 of the name: an order that is the same for everyone and prefers nothing."""
        return hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest()


def freeze_videos(benchmark: str, references: Path, config: BenchmarkConfig) -> BenchmarkProtocol:
    """The protocol of a local copy; the same for the same files and settings.

    Raises:
        InputError: no folder, no video of the layout, none that is long enough, or two of one name.
    """
    wanted = None if config.ranges is None else read_time_ranges(config.ranges)
    candidates = _list_candidates(find_videos(references, wanted), config)
    if not candidates:
        raise InputError(f"references '{references}' hold no video laid out as {config.layout.value} that may be used")
    twice = [name for name, count in Counter(one.name for one in candidates).items() if count > 1]
    if twice:
        raise InputError(f"references '{references}' hold {len(twice)} names more than once: {', '.join(twice[:3])}")
    stretches = {one.name: time_ranges_for(one.file, wanted) for one in candidates}
    clips: list[ProtocolClip] = []
    people: Counter[str] = Counter()
    for one in tqdm(candidates, desc="freezing", unit=" videos", dynamic_ncols=True):
        if len(clips) == (config.max_clips or math.inf):
            break
        if people[one.identity] == (config.max_clips_per_identity or math.inf):
            continue
        clip = _freeze_clip(one, stretches[one.name], config)
        if clip is not None:
            clips.append(clip)
            people[one.identity] += 1
    if not clips:
        raise InputError(
            f"none of {len(candidates)} videos in '{references}' has picture and sound for {config.min_seconds:g} s; "
            "give longer ones or a lower min_seconds"
        )
    return BenchmarkProtocol(benchmark, config.fps, config.width, config.height, config.max_extra_frames, tuple(clips))


def _list_candidates(files: Sequence[VideoFile], config: BenchmarkConfig) -> list[CandidateVideo]:
    """The videos of the layout, without people of training, by the md5 of their names."""
    trained = {
        identity for path in config.training_manifests for identity in _training_identities(Path(path), config.layout)
    }
    found = []
    for file in files:
        known = identify_clip(file.video, config.layout)
        if known is None or known[1] in trained or (config.identities and known[1] not in config.identities):
            continue
        found.append(CandidateVideo(file, *known))
    return sorted(found, key=lambda one: (one.sort_key, one.name))


def _training_identities(manifest: Path, layout: DatasetLayout) -> Iterator[str]:
    for record in read_manifest(manifest):
        known = identify_clip(record.video, layout)
        if known is not None:
            yield known[1]


def identify_clip(video: str, layout: DatasetLayout) -> tuple[str, str] | None:
    """(name of the clip, who is in it) of a video's path; None where it is not of this layout.

    >>> identify_clip("MEAD/M003/video/front/angry/level_1/004.mp4", DatasetLayout.mead)
    ('M003-front-angry-level_1-004', 'M003')
    """
    path = PurePosixPath(video)
    if layout is DatasetLayout.mead:
        found = _MEAD_PATTERN.search(video)
        return found and (f"{found[1]}-front-{found[2]}-level_{found[3]}-{found[4]}", found[1])
    if layout is DatasetLayout.portrait_world:
        found = _PORTRAIT_WORLD_PATTERN.search(video)
        return found and ("-".join(path.parts[:-1]), found[2])
    if layout is DatasetLayout.celebvhq:
        found = _CELEBVHQ_PATTERN.fullmatch(path.stem)
        return found and (f"v{path.stem}", found[1])
    return path.stem, path.stem if path.stem.startswith("Radio") else re.sub(r"\d+$", "", path.stem)


def _freeze_clip(
    candidate: CandidateVideo, time_ranges: Sequence[TimeRange], config: BenchmarkConfig
) -> ProtocolClip | None:
    """The first stretch of a video that is long enough, None where there is none, or no picture with sound.

    A stretch without a crop is cropped around its face where the benchmark's pictures have another shape.
    """
    path = candidate.file.path
    info = media.probe(path)
    if not (info.has_video and info.has_audio):
        return None
    for stretch in time_ranges:
        # A quarter of a frame of tolerance, as in reading: 4.0 s at 25 fps are 100 frames however stamps are rounded.
        there = math.ceil((min(stretch.end, info.duration) - stretch.start) * config.fps - 0.25)
        frames = min(there, round(config.max_seconds * config.fps))
        if frames >= config.min_seconds * config.fps - 0.5:
            if stretch.crop is None:
                found = crop_around_faces(load_first_frame(path, stretch.start), config.width / config.height)
                crop = None if found is None else RelativeCrop(*found)
            else:
                crop = RelativeCrop(*(round(share, 6) for share in stretch.crop))
            return ProtocolClip(
                candidate.name, candidate.file.video, candidate.identity, stretch.start, frames, crop, hash_file(path)
            )
    return None

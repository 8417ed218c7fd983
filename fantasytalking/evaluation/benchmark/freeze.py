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
from fantasytalking.data.prepare.plan import Crop, TimeRange, VideoFile, find_videos, ranges_of, read_ranges
from fantasytalking.evaluation.benchmark.auto_crop import first_picture, frame_faces
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, Layout
from fantasytalking.evaluation.benchmark.protocol import Protocol, ProtocolClip

_MEAD = re.compile(r"(?:^|[/_])([MW]\d{3})[/_]video[/_]front[/_](\w+?)[/_]level_(\d)[/_](\d+)\.\w+$")
_CELEBVHQ = re.compile(r"([A-Za-z0-9_-]{11})_(\d+)")
_PORTRAIT_WORLD = re.compile(r"(?:^|/)((id\d{4})_s\d{4})/video\.mp4$")


@dataclass(frozen=True)
class Candidate:
    """A video that belongs to the data set."""

    file: VideoFile
    name: str
    identity: str

    @property
    def order(self) -> str:
        """The md5 of the name: an order that is the same for everyone and prefers nothing."""
        return hashlib.md5(self.name.encode(), usedforsecurity=False).hexdigest()


def freeze(benchmark: str, references: Path, config: BenchmarkConfig) -> Protocol:
    """The protocol of a local copy; the same for the same files and settings.

    Raises:
        InputError: no folder, no video of the layout, none that is long enough, or two of one name.
    """
    wanted = None if config.ranges is None else read_ranges(config.ranges)
    candidates = _candidates(find_videos(references, wanted), config)
    if not candidates:
        raise InputError(f"references '{references}' hold no video laid out as {config.layout.value} that may be used")
    twice = [name for name, count in Counter(one.name for one in candidates).items() if count > 1]
    if twice:
        raise InputError(f"references '{references}' hold {len(twice)} names more than once: {', '.join(twice[:3])}")
    stretches = {one.name: ranges_of(one.file, wanted) for one in candidates}
    clips: list[ProtocolClip] = []
    people: Counter[str] = Counter()
    for one in tqdm(candidates, desc="freezing", unit=" videos", dynamic_ncols=True):
        if len(clips) == (config.clips or math.inf):
            break
        if people[one.identity] == (config.clips_per_identity or math.inf):
            continue
        clip = _clip(one, stretches[one.name], config)
        if clip is not None:
            clips.append(clip)
            people[one.identity] += 1
    if not clips:
        raise InputError(
            f"none of {len(candidates)} videos in '{references}' has picture and sound for {config.least_seconds:g} s; "
            "give longer ones or a lower least_seconds"
        )
    return Protocol(benchmark, config.fps, config.width, config.height, config.surplus, tuple(clips))


def _candidates(files: Sequence[VideoFile], config: BenchmarkConfig) -> list[Candidate]:
    """The videos of the layout, without people of training, by the md5 of their names."""
    trained = {identity for path in config.training for identity in _trained(Path(path), config.layout)}
    found = []
    for file in files:
        known = identify(file.video, config.layout)
        if known is None or known[1] in trained or (config.identities and known[1] not in config.identities):
            continue
        found.append(Candidate(file, *known))
    return sorted(found, key=lambda one: (one.order, one.name))


def _trained(manifest: Path, layout: Layout) -> Iterator[str]:
    for record in read_manifest(manifest):
        known = identify(record.video, layout)
        if known is not None:
            yield known[1]


def identify(video: str, layout: Layout) -> tuple[str, str] | None:
    """(name of the clip, who is in it) of a video's path; None where it is not of this layout.

    >>> identify("MEAD/M003/video/front/angry/level_1/004.mp4", Layout.mead)
    ('M003-front-angry-level_1-004', 'M003')
    """
    path = PurePosixPath(video)
    if layout is Layout.mead:
        found = _MEAD.search(video)
        return found and (f"{found[1]}-front-{found[2]}-level_{found[3]}-{found[4]}", found[1])
    if layout is Layout.portrait_world:
        found = _PORTRAIT_WORLD.search(video)
        return found and ("-".join(path.parts[:-1]), found[2])
    if layout is Layout.celebvhq:
        found = _CELEBVHQ.fullmatch(path.stem)
        return found and (f"v{path.stem}", found[1])
    return path.stem, path.stem if path.stem.startswith("Radio") else re.sub(r"\d+$", "", path.stem)


def _clip(one: Candidate, stretches: Sequence[TimeRange], config: BenchmarkConfig) -> ProtocolClip | None:
    """The first stretch of a video that is long enough, None where there is none, or no picture with sound.

    A stretch without a crop is cropped around its face where the benchmark's pictures have another shape.
    """
    path = one.file.path
    info = media.probe(path)
    if not (info.has_video and info.has_audio):
        return None
    for stretch in stretches:
        # A quarter of a frame of tolerance, as in reading: 4.0 s at 25 fps are 100 frames however stamps are rounded.
        there = math.ceil((min(stretch.end, info.duration) - stretch.start) * config.fps - 0.25)
        frames = min(there, round(config.seconds * config.fps))
        if frames >= config.least_seconds * config.fps - 0.5:
            if stretch.crop is None:
                found = frame_faces(first_picture(path, stretch.start), config.width / config.height)
                crop = None if found is None else Crop(*found)
            else:
                crop = Crop(*(round(share, 6) for share in stretch.crop))
            return ProtocolClip(one.name, one.file.video, one.identity, stretch.start, frames, crop, hash_file(path))
    return None

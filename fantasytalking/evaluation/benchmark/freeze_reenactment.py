"""From a local copy of portraits and drivers to a frozen protocol of self- or cross-reenactment.

ExprBench, as FantasyPortrait (arXiv 2507.12956) describes it, is 200 portraits and 100 drivers of 5 s, and for several
people 100 pictures and 50 drivers; which goes with which is not told. Here pairs are made by `assign_drivers`.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import hash_file
from fantasytalking.evaluation.benchmark.auto_crop import crop_around_faces, load_first_frame, normalize_crop
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, DatasetLayout, ReenactmentTask
from fantasytalking.evaluation.benchmark.driver_assignment import assign_drivers
from fantasytalking.evaluation.benchmark.layouts import (
    DRIVER_SEPARATOR,
    list_cross_reenactments,
    list_drivers,
    list_portraits,
    list_self_reenactments,
)
from fantasytalking.evaluation.benchmark.media_source import CropBox, MediaSource
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.perception.face_crop import face_crop
from fantasytalking.perception.face_track import FaceTrack

DRIVER_CROP_MARGIN = 0.4
"""Left round the face of one of several people who drives, in face sizes."""
DRIVER_ASPECT_RATIO = 1.0
"""Width over height of what is seen of the one face in a driver."""
MAX_NAME_LENGTH = 100


class _PlannedClip(NamedTuple):
    """A clip to be: its video, or None where nobody knows it, its portrait, or None for the video's first frame."""

    name: str
    identity: str
    video: Path | None
    portrait: Path | None
    drivers: tuple[Path, ...]


def freeze_reenactment(benchmark: str, references: Path, config: BenchmarkConfig) -> BenchmarkProtocol:
    """The protocol of a local copy; the same for the same files and settings.

    Raises:
        InputError: no folder, nothing of the layout in it, or no driver that is long enough.
    """
    if not references.is_dir():
        raise InputError(f"references '{references}' is not a folder; give a folder of portraits and drivers")
    casts = list(_plan_clips(references, config))
    names = Counter(cast.name for cast in casts)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"references '{references}' hold {len(twice)} names more than once: {', '.join(twice[:3])}")
    found = _freeze_planned(casts, _SourceCropper(references, config))
    clips = tuple(islice(found, config.max_clips))
    if not clips:
        raise InputError(
            f"none of {len(casts)} pairs in '{references}' lasts {config.min_seconds:g} s; give longer drivers, more "
            "identities, or a lower min_seconds"
        )
    answered = config.task is ReenactmentTask.self or config.layout is DatasetLayout.exprbench_world
    return BenchmarkProtocol(
        benchmark, config.fps, config.width, config.height, config.max_extra_frames, clips, answered
    )


def _plan_clips(references: Path, config: BenchmarkConfig) -> Iterator[_PlannedClip]:
    """All clips that there may be, in the order of the md5 of their names or their portraits'."""
    if config.task is ReenactmentTask.self:
        for one in sorted(list_self_reenactments(references, config), key=lambda entry: entry.sort_key):
            yield _PlannedClip(
                safe_clip_name(one.name), "+".join(one.identities), one.path, None, (one.path,) * config.people
            )
    elif config.layout is DatasetLayout.exprbench_world:
        for shown, still, driving in list_cross_reenactments(references, config.people):
            yield _PlannedClip(shown.name, "+".join(shown.identities), shown.path, still, driving)
    else:
        pairs = assign_drivers(list_portraits(references, config), list_drivers(references), config.people)
        for portrait, chosen in pairs:
            name = safe_clip_name(portrait.name + DRIVER_SEPARATOR + "-".join(driver.name for driver in chosen))
            yield _PlannedClip(
                name, "+".join(portrait.identities), None, portrait.path, tuple(one.path for one in chosen)
            )


def _freeze_planned(planned: Sequence[_PlannedClip], cropper: "_SourceCropper") -> Iterator[ProtocolClip]:
    """Those that are long enough, not more of one person than wanted."""
    most = cropper.config.max_clips_per_identity
    people: Counter[str] = Counter()
    for cast in tqdm(planned, desc="freezing", unit=" clips", dynamic_ncols=True):
        if most is not None and people[cast.identity] == most:
            continue
        frames = min(cropper.frame_count(path) for path in {*cast.drivers, cast.video} if path is not None)
        if frames >= cropper.config.min_seconds * cropper.config.fps - 0.5:
            people[cast.identity] += 1
            yield _freeze_clip(cast, frames, cropper)


def _freeze_clip(planned: _PlannedClip, frames: int, cropper: "_SourceCropper") -> ProtocolClip:
    if planned.portrait is None:
        drivers = cropper.driver_sources(planned.drivers[0], frames)
    else:
        # A wide picture of several people would leave a strip of a face.
        drivers = tuple(cropper.source(path, DRIVER_ASPECT_RATIO) for path in planned.drivers)
    shown = drivers[0] if planned.video is None else cropper.source(planned.video)
    portrait = None if planned.portrait is None else cropper.source(planned.portrait)
    return ProtocolClip(
        planned.name, shown.file, planned.identity, 0.0, frames, shown.crop, shown.sha256, portrait, drivers
    )


class _SourceCropper:
    """Which part of pictures and videos counts: as much as the benchmark's shape leaves, faces in the middle."""

    def __init__(self, references: Path, config: BenchmarkConfig) -> None:
        self.references, self.config = references, config
        self._sources: dict[tuple[Path, float], MediaSource] = {}
        self._aspect = config.width / config.height

    def frame_count(self, video: Path) -> int:
        """Frames of a video at the benchmark's rate, at most so many as a clip has; 0 where there is no picture."""
        info = media.probe(video)
        if not info.has_video:
            return 0
        # A quarter of a frame of tolerance, as in reading.
        there = math.ceil(info.duration * self.config.fps - 0.25)
        return min(there, round(self.config.max_seconds * self.config.fps))

    def source(self, path: Path, aspect: float | None = None) -> MediaSource:
        """A portrait, or a video of which all faces count, in the shape of the benchmark or with this aspect."""
        key = path, aspect or self._aspect
        if key not in self._sources:
            picture = load_first_frame(path)
            file = path.relative_to(self.references).as_posix()
            self._sources[key] = MediaSource(file, hash_file(path), crop_around_faces(picture, key[1]))
        return self._sources[key]

    def driver_sources(self, video: Path, frames: int) -> tuple[MediaSource, ...]:
        """A driver for each of the people in a video.

        Raises:
            InputError: fewer faces are found in it.
        """
        whole, people = self.source(video), self.config.people
        if people == 1:
            return (whole,)
        shown = EvaluationClip.from_file(video, fps=self.config.fps, frame_count=frames).with_people([None] * people)
        if not all(person.track.known.any() for person in shown.people):
            raise InputError(f"'{video}' shows fewer than {people} faces that can be followed; take it away")
        crops = crop_each_face([person.track for person in shown.people])
        return tuple(replace(whole, crop=crop, face=face, faces=people) for face, crop in enumerate(crops))


def safe_clip_name(name: str) -> str:
    """The same for any file's name, without what clips' names may not have; long ones end in their md5."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "clip"
    if len(plain) <= MAX_NAME_LENGTH:
        return plain
    return plain[: MAX_NAME_LENGTH - 9] + "-" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]


def crop_each_face(tracks: Sequence[FaceTrack]) -> list[CropBox]:
    """A part of the picture for each of several faces, known from left to right, that shows no other: it ends between
    both where neighbours are near."""
    height, width = tracks[0].height, tracks[0].width
    boxes = [track.boxes[track.known] for track in tracks]
    lefts, rights = [float(box[:, 0].min()) for box in boxes], [float(box[:, 2].max()) for box in boxes]
    between = [(right + left) / 2 for right, left in zip(rights[:-1], lefts[1:], strict=True)]
    crops = []
    for track, first, last in zip(tracks, [0.0, *between], [*between, float(width)], strict=True):
        square = face_crop(track.landmarks, DRIVER_CROP_MARGIN, image_size=(height, width))
        left, right = max(square.x, math.ceil(first)), min(square.x + square.side, math.floor(last))
        crops.append(normalize_crop(left, square.y, max(1, right - left), square.side, height))
    return crops

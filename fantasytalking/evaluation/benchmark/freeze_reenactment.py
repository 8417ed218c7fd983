"""Freezes a protocol of self- or cross-reenactment from a local copy of portraits and driving videos.

ExprBench, as FantasyPortrait (arXiv 2507.12956) describes it, has 200 portraits and 100 drivers of 5 s, and for several
people 100 images and 50 drivers. It does not state the pairs; here they are made by `assign_drivers`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from fantasytalking import media
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import hash_file
from fantasytalking.evaluation.benchmark.auto_crop import crop_around_faces, load_first_frame, normalize_crop
from fantasytalking.evaluation.benchmark.clip_names import safe_clip_name
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, DatasetLayout, ReenactmentTask
from fantasytalking.evaluation.benchmark.driver_assignment import assign_drivers
from fantasytalking.evaluation.benchmark.freeze import check_unique_names
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
"""Margin around the face of one of several driving people, in face sizes."""
DRIVER_ASPECT_RATIO = 1.0
"""Width over height of the crop of a driving video with one face."""


class _PlannedClip(NamedTuple):
    """A clip before it is frozen."""

    name: str
    identity: str
    video: Path | None
    """The reference; None if there is no ground truth."""
    portrait: Path | None
    """The portrait; None = the first frame of the video."""
    drivers: tuple[Path, ...]
    """Driving videos, from left to right."""


def freeze_reenactment(benchmark: str, references: Path, config: BenchmarkConfig) -> BenchmarkProtocol:
    """Freezes the protocol of a local copy; equal files and settings give an equal protocol.

    Args:
        benchmark: name of the benchmark.
        references: folder of portraits and driving videos.
        config: which clips to use.

    Raises:
        InputError: the folder is missing or has another layout, or no driving video is long enough.
    """
    if not references.is_dir():
        raise InputError(
            f"--references '{references}' is not a folder; give a folder of portraits and drivers",
            code=ErrorCode.missing_file,
            field="--references",
            value=str(references),
        )
    planned = list(_plan_clips(references, config))
    check_unique_names([clip.name for clip in planned], references)
    found = _freeze_planned(planned, _SourceCropper(references, config))
    clips = tuple(islice(found, config.max_clips))
    if not clips:
        raise InputError(
            f"none of {len(planned)} pairs in '{references}' lasts {config.min_seconds:g} s; give longer drivers, more "
            "identities, or a lower min_seconds",
            code=ErrorCode.out_of_range,
            field="min_seconds",
            value=config.min_seconds,
        )
    answered = config.task is ReenactmentTask.self or config.layout is DatasetLayout.exprbench_world
    return BenchmarkProtocol(
        benchmark, config.fps, config.width, config.height, config.max_extra_frames, clips, answered
    )


def _plan_clips(references: Path, config: BenchmarkConfig) -> Iterator[_PlannedClip]:
    """Yields all possible clips, in the order of the md5 of their names or of their portraits' names."""
    if config.task is ReenactmentTask.self:
        for one in sorted(list_self_reenactments(references, config), key=lambda entry: entry.sort_key):
            yield _PlannedClip(
                safe_clip_name(one.name), "+".join(one.identities), one.path, None, (one.path,) * config.people
            )
    elif config.layout is DatasetLayout.exprbench_world:
        for clip, portrait, drivers in list_cross_reenactments(references, config.people):
            yield _PlannedClip(clip.name, "+".join(clip.identities), clip.path, portrait, drivers)
    else:
        pairs = assign_drivers(list_portraits(references, config), list_drivers(references), config.people)
        for image, chosen in pairs:
            name = safe_clip_name(image.name + DRIVER_SEPARATOR + "-".join(driver.name for driver in chosen))
            yield _PlannedClip(name, "+".join(image.identities), None, image.path, tuple(one.path for one in chosen))


def _freeze_planned(planned: Sequence[_PlannedClip], cropper: "_SourceCropper") -> Iterator[ProtocolClip]:
    """Yields the clips that are long enough, up to the maximum per identity."""
    limit = cropper.config.max_clips_per_identity
    clips_per_identity: Counter[str] = Counter()
    for clip in tqdm(planned, desc="freezing", unit=" clips", dynamic_ncols=True):
        if limit is not None and clips_per_identity[clip.identity] == limit:
            continue
        frames = min(cropper.frame_count(path) for path in {*clip.drivers, clip.video} if path is not None)
        if frames >= cropper.config.min_seconds * cropper.config.fps - 0.5:
            clips_per_identity[clip.identity] += 1
            yield _freeze_clip(clip, frames, cropper)


def _freeze_clip(planned: _PlannedClip, frames: int, cropper: "_SourceCropper") -> ProtocolClip:
    if planned.portrait is None:
        drivers = cropper.driver_sources(planned.drivers[0], frames)
    else:
        # The aspect ratio of a wide image of several people would leave a strip of a face.
        drivers = tuple(cropper.source(path, DRIVER_ASPECT_RATIO) for path in planned.drivers)
    reference = drivers[0] if planned.video is None else cropper.source(planned.video)
    portrait = None if planned.portrait is None else cropper.source(planned.portrait)
    return ProtocolClip(
        name=planned.name,
        video=reference.file,
        identity=planned.identity,
        start=0.0,
        frames=frames,
        crop=reference.crop,
        sha256=reference.sha256,
        portrait=portrait,
        drivers=drivers,
    )


class _SourceCropper:
    """Crops images and videos to the benchmark's aspect ratio, with faces in the center; each file is hashed once."""

    def __init__(self, references: Path, config: BenchmarkConfig) -> None:
        self.references, self.config = references, config
        self._sources: dict[tuple[Path, float], MediaSource] = {}
        self._aspect = config.width / config.height

    def frame_count(self, video: Path) -> int:
        """Returns the frames of a video at the benchmark's rate, at most `max_seconds`; 0 if the file has no video."""
        info = media.probe(video)
        if not info.has_video:
            return 0
        # A quarter of a frame of tolerance, as in reading.
        available = math.ceil(info.duration * self.config.fps - 0.25)
        return min(available, round(self.config.max_seconds * self.config.fps))

    def source(self, path: Path, aspect: float | None = None) -> MediaSource:
        """Returns a portrait, or a video with all its faces, cropped to `aspect`; None = that of the benchmark."""
        key = path, aspect or self._aspect
        if key not in self._sources:
            image = load_first_frame(path)
            file = path.relative_to(self.references).as_posix()
            self._sources[key] = MediaSource(file, hash_file(path), crop_around_faces(image, key[1]))
        return self._sources[key]

    def driver_sources(self, video: Path, frames: int) -> tuple[MediaSource, ...]:
        """Returns a driver for each person in a video.

        Raises:
            InputError: fewer faces than people are found.
        """
        whole, people = self.source(video), self.config.people
        if people == 1:
            return (whole,)
        clip = EvaluationClip.from_file(video, fps=self.config.fps, frame_count=frames).with_people([None] * people)
        if not all(person.track.known.any() for person in clip.people):
            raise InputError(
                f"'{video}' shows fewer than {people} faces that can be tracked; remove it",
                code=ErrorCode.no_face,
                field="people",
                value=people,
            )
        crops = crop_each_face([person.track for person in clip.people])
        return tuple(replace(whole, crop=crop, face=face, faces=people) for face, crop in enumerate(crops))


def crop_each_face(tracks: Sequence[FaceTrack]) -> list[CropBox]:
    """Returns a crop for each of several faces that shows no other face: crops of close neighbors end between them.

    Args:
        tracks: tracks of the faces, from left to right.
    """
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

"""Configuration of a benchmark (configs/benchmarks/*.yaml)."""

import re
from dataclasses import dataclass, field
from enum import Enum
from string import Formatter

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_BENCHMARK_SIDE, MAX_CLIP_FRAMES
from fantasytalking.common.validation import check_ranges

MAX_REENACTED_PEOPLE = 4
"""Largest number of people in an image."""
IDENTITY_GROUP = "identity"
"""Group of `identity_pattern` that names the person."""
PATH_FIELDS = ("stem", "folder")
"""Fields of `name_pattern` that are taken from the path itself."""


class DatasetLayout(Enum):
    """How the folder of references is laid out."""

    videos = "videos"
    """Videos below any folder; `identity_pattern` and `name_pattern` say which belong, and how they are named."""
    exprbench = "exprbench"
    """Reenactment: portraits/WHO_ANYTHING.png and drivers/WHO_ANYTHING.mp4; see `layouts`."""
    exprbench_world = "exprbench_world"
    """Reenactment: clips of the portrait world below any folder, and crossed/PORTRAIT-by-DRIVER; see `layouts`."""
    hdtf = "hdtf"
    """Layout of earlier releases: the patterns of configs/benchmarks/hdtf.yaml."""
    mead = "mead"
    """Layout of earlier releases: the patterns of configs/benchmarks/mead.yaml."""
    celebvhq = "celebvhq"
    """Layout of earlier releases: the patterns of configs/benchmarks/celebvhq.yaml."""
    portrait_world = "portrait_world"
    """Layout of earlier releases: the patterns of configs/benchmarks/portrait_world.yaml."""


REENACTMENT_LAYOUTS = (DatasetLayout.exprbench, DatasetLayout.exprbench_world)
"""Layouts in which driving videos determine the motion."""
OLD_LAYOUTS = (DatasetLayout.hdtf, DatasetLayout.mead, DatasetLayout.celebvhq, DatasetLayout.portrait_world)
"""Layouts of earlier releases, each the name of a shipped benchmark whose patterns they stand for."""


class ReenactmentTask(Enum):
    """Who drives a face."""

    self = "self"
    """The same person, in the video whose first frame is the portrait."""
    cross = "cross"
    """Another person."""


@dataclass
class BenchmarkConfig:
    """Which clips of a local copy form a benchmark. The protocol's id depends on the clips that result."""

    layout: DatasetLayout = DatasetLayout.videos
    identity_pattern: str | None = None
    """Regular expression searched in the path of a video relative to the references, with a group `identity`, the
    person. Videos that do not match are not part of the dataset. Required by layout `videos`."""
    name_pattern: str = "{stem}"
    """Name of a clip, which its prediction has too: a format string of the groups of `identity_pattern`, of {stem}, the
    file's name without suffix, and of {folder}, the folders of the path joined by "-"."""
    fps: float = 25.0
    """Frames per second; references are resampled to the nearest frames, predictions must have this rate."""
    width: int = 512
    """Width in pixels that both sides are resized to."""
    height: int = 512
    """Height in pixels that both sides are resized to."""
    max_seconds: float = 10.0
    """Longest segment of a video that is evaluated, in seconds."""
    min_seconds: float = 10.0
    """Shortest segment in seconds; videos without one are skipped."""
    max_clips: int | None = None
    """Maximum number of clips, in the order of the md5 of their names; null = all."""
    max_clips_per_identity: int | None = None
    """Maximum number of clips per person, in the same order; null = all."""
    identities: list[str] = field(default_factory=list)
    """The only people to use; empty = all."""
    max_extra_frames: int = 4
    """Number of frames that a prediction may be longer than its reference (models generate 1 + 4k frames)."""
    ranges: str | None = None
    """JSON Lines file of the only segments to use, with their crops (data/manifests/hdtf.jsonl); null = whole videos.
    Layout `videos` only."""
    training_manifests: list[str] = field(default_factory=list)
    """manifest.jsonl of prepared corpora that a model was trained on: their people are excluded."""
    task: ReenactmentTask = ReenactmentTask.self
    """Who drives a face (reenactment only)."""
    people: int = 1
    """Number of people in each image (reenactment only)."""

    def validate(self) -> None:
        """Checks every value.

        Raises:
            InputError: a value is outside its limits, or two values exclude each other.
        """
        check_ranges(
            self,
            {
                "fps": (1, 120),
                "width": (32, MAX_BENCHMARK_SIDE),
                "height": (32, MAX_BENCHMARK_SIDE),
                "max_seconds": (0.2, MAX_CLIP_FRAMES / self.fps if self.fps else 0),
                "min_seconds": (0.2, self.max_seconds),
                "max_clips": (1, 100_000),
                "max_clips_per_identity": (1, 100_000),
                "max_extra_frames": (0, 1000),
                "people": (1, MAX_REENACTED_PEOPLE),
            },
        )
        if self.layout in REENACTMENT_LAYOUTS:
            self._check_reenactment()
        else:
            self._check_videos()

    def _check_reenactment(self) -> None:
        for name in ("training_manifests", "identities", "ranges", "identity_pattern"):
            if value := getattr(self, name):
                raise InputError(
                    f"{name} is {value!r}, which layout {self.layout.value} of reenactment does not support; remove "
                    "the files from the folder of references instead",
                    code=ErrorCode.conflict,
                    field=name,
                    value=value,
                )

    def _check_videos(self) -> None:
        for name, only in (("task", ReenactmentTask.self), ("people", 1)):
            if (value := getattr(self, name)) != only:
                raise InputError(
                    f"{name} is {getattr(value, 'value', value)}, which only benchmarks of reenactment support; leave "
                    f"it out for layout {self.layout.value}",
                    code=ErrorCode.conflict,
                    field=name,
                    value=value,
                )
        if self.layout is DatasetLayout.hdtf and self.ranges is None:
            raise InputError(
                "ranges is null, which layout hdtf requires; give the file of segments (data/manifests/hdtf.jsonl)",
                code=ErrorCode.missing_value,
                field="ranges",
            )
        if self.identity_pattern is None:
            if self.layout is DatasetLayout.videos:
                raise InputError(
                    "identity_pattern is null, which layout videos requires; give a regular expression with a group "
                    f"(?P<{IDENTITY_GROUP}>...)",
                    code=ErrorCode.missing_value,
                    field="identity_pattern",
                )
            return
        try:
            groups = re.compile(self.identity_pattern).groupindex
        except re.error as error:
            raise InputError(
                f"identity_pattern '{self.identity_pattern}' is not a regular expression: {error}",
                code=ErrorCode.invalid_type,
                field="identity_pattern",
                value=self.identity_pattern,
            ) from error
        if IDENTITY_GROUP not in groups:
            raise InputError(
                f"identity_pattern '{self.identity_pattern}' has no group '{IDENTITY_GROUP}'; write the part that "
                f"names the person as (?P<{IDENTITY_GROUP}>...)",
                code=ErrorCode.invalid_type,
                field="identity_pattern",
                value=self.identity_pattern,
            )
        _check_name_pattern(self.name_pattern, [*groups, *PATH_FIELDS])


def _check_name_pattern(pattern: str, known: list[str]) -> None:
    try:
        names = [f"{name}{spec}" for _, name, spec, _ in Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise InputError(
            f"name_pattern '{pattern}' is not a format string: {error}",
            code=ErrorCode.invalid_type,
            field="name_pattern",
            value=pattern,
        ) from error
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"name_pattern '{pattern}' has an unknown field '{unknown[0]}'; known: {', '.join(known)}",
            code=ErrorCode.unknown_key,
            field="name_pattern",
            value=unknown[0],
        )

"""The settings by which a benchmark is frozen (configs/benchmarks/*.yaml)."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import MAX_CLIP_FRAMES

MAX_REENACTED_PEOPLE = 4
"""In a picture."""


class DatasetLayout(Enum):
    """How the folder of references is laid out, and with that, who is in a video."""

    hdtf = "hdtf"
    """Videos under HDTF's names, with `ranges`; DianeBlack0 and DianeBlack1 are one person, every Radio another."""
    mead = "mead"
    """M003/video/front/EMOTION/level_N/NNN.mp4 below any folder, or the same with _ for /."""
    celebvhq = "celebvhq"
    """The data set's clips, YOUTUBE-ID_N.mp4; an address counts as a person."""
    portrait_world = "portrait_world"
    """idNNNN_sNNNN/video.mp4 below any folder."""
    exprbench = "exprbench"
    """portraits/WHO_ANYTHING.png and drivers/WHO_ANYTHING.mp4; see `reenactment_folders`."""
    exprbench_world = "exprbench_world"
    """Clips of the portrait world below any folder, and crossed/PORTRAIT-by-DRIVER; see `reenactment_folders`."""


REENACTMENT_LAYOUTS = (DatasetLayout.exprbench, DatasetLayout.exprbench_world)
"""Layouts in which a face drives."""


class ReenactmentTask(Enum):
    """Who drives a face."""

    self = "self"
    """The same person, in the video whose first frame is the portrait."""
    cross = "cross"
    """Somebody else."""


@dataclass
class BenchmarkConfig:
    """Which clips of a local copy make a benchmark. All of it is part of the protocol's id through what it decides."""

    layout: DatasetLayout = MISSING
    fps: float = 25.0
    """Frames a second; references are resampled to the nearest frames, predictions must have this rate."""
    width: int = 512
    """Pixels that both sides are brought to."""
    height: int = 512
    max_seconds: float = 10.0
    """Longest stretch of a video that is evaluated, from its beginning on."""
    min_seconds: float = 10.0
    """Videos with a shorter stretch are passed over."""
    max_clips: int | None = None
    """At most so many, in the order of the md5 of their names; none: all."""
    max_clips_per_identity: int | None = None
    """At most so many of one person, in the same order."""
    identities: list[str] = field(default_factory=list)
    """The only people to use; empty: everyone."""
    max_extra_frames: int = 4
    """Frames that a prediction may be longer than its reference (models make 1 + 4k)."""
    ranges: str | None = None
    """For `hdtf`: the JSON Lines file of stretches and crops (data/manifests/hdtf.jsonl)."""
    training_manifests: list[str] = field(default_factory=list)
    """manifest.jsonl of prepared corpora that a model was trained on: their people are left out."""
    task: ReenactmentTask = ReenactmentTask.self
    """Of reenactment: who drives."""
    people: int = 1
    """Of reenactment: in every picture."""

    def validate(self) -> None:
        """Checks every value.

        Raises:
            InputError: a value outside its limits.
        """
        limits: dict[str, tuple[float, float]] = {
            "fps": (1, 120),
            "width": (32, 4096),
            "height": (32, 4096),
            "max_seconds": (0.2, MAX_CLIP_FRAMES / self.fps if self.fps else 0),
            "min_seconds": (0.2, self.max_seconds),
            "max_clips": (1, 100_000),
            "max_clips_per_identity": (1, 100_000),
            "max_extra_frames": (0, 1000),
            "people": (1, MAX_REENACTED_PEOPLE),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; it must lie from {low:g} to {high:g}")
        if self.layout not in REENACTMENT_LAYOUTS and (self.people, self.task) != (1, ReenactmentTask.self):
            raise InputError(f"task and people are settings of reenactment; layout {self.layout.value} has neither")
        if self.layout in REENACTMENT_LAYOUTS and (self.training_manifests or self.identities):
            raise InputError("training and identities are no settings of reenactment; leave the files out instead")
        if (self.layout is DatasetLayout.hdtf) != (self.ranges is not None):
            raise InputError(f"ranges is {self.ranges}; layout hdtf needs a file of stretches, no other layout has one")

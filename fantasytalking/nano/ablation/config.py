"""The papers' ablations on the miniature (configs/nano/ablation.yaml): what is trained, and what is asked of it."""

import itertools
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.common.errors import InputError


class AblationTask(Enum):
    """What videos are made from."""

    speech = "speech"
    """A portrait and its own sound: portrait_world."""
    expression = "expression"
    """A portrait and videos of others who drive it, where the renderer knows the answer: exprbench_world."""

    @property
    def benchmark(self) -> str:
        """By its name for evaluation."""
        return {AblationTask.speech: "portrait_world", AblationTask.expression: "exprbench_world"}[self]


@dataclass
class AblationRowConfig:
    """One row of the table."""

    name: str = MISSING
    stage1_fraction: float | None = None
    """Of the steps that are stage 1's; 1: clip level alone, 0: frame level alone; none: neither stage is trained."""
    portrait_stage: bool = False
    """The portrait stage is trained, on the finished pipeline in `components`. A row that trains nothing is that
    pipeline as it stands."""
    train_overrides: list[str] = field(default_factory=list)
    """key=value settings of its training scripts."""
    infer_overrides: list[str] = field(default_factory=list)
    """key=value settings of generation."""
    num_seeds: int = 1
    """Trainings that differ in their seed alone; each gets a row."""

    @property
    def trains(self) -> bool:
        """Whether anything is trained for it."""
        return self.portrait_stage or self.stage1_fraction is not None

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        if self.portrait_stage and self.stage1_fraction is not None:
            raise InputError(f"'{self.name}' trains the portrait stage and has a stage1_share; give it one of them")
        if self.stage1_fraction is not None and not 0 <= self.stage1_fraction <= 1:
            raise InputError(f"stage1_share of '{self.name}' is {self.stage1_fraction}; it must lie from 0 to 1")
        if not 1 <= self.num_seeds <= 100:
            raise InputError(f"seeds of '{self.name}' is {self.num_seeds}; it must lie from 1 to 100")


@dataclass
class MotionControlConfig:
    """The row whose model is asked for several intensities of motion."""

    row: str = MISSING
    intensities: list[float] = field(default_factory=lambda: [0.1, 0.5, 1.0])
    """Ascending."""
    max_seconds: float | None = None
    """At most so much of every clip; none: as much as the rows have."""

    def validate(self) -> None:
        """Holds the intensities in their limits."""
        ascending = all(low < high for low, high in itertools.pairwise(self.intensities))
        if len(self.intensities) < 2 or not ascending or not all(0 <= value <= 1 for value in self.intensities):
            raise InputError(f"control.intensities is {self.intensities}; give two and more, ascending, from 0 to 1")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"control.seconds is {self.max_seconds}; it must be above 0")


@dataclass
class AblationConfig:
    """All rows; every one that is trained has the same number of steps, and all have the same clips."""

    title: str = "Ablation on nano"
    work_dir: str = "outputs/nano/ablation"
    base: str = "checkpoints/nano"
    """Frozen base and encoders."""
    manifest: str = "outputs/nano/corpus/manifest.jsonl"
    """Prepared training clips."""
    task: AblationTask = AblationTask.speech
    people: int = 1
    """In a picture; several can only be driven."""
    size: int = 96
    """Height of the pictures in pixels."""
    width: int = 96
    zoom: float = 1.0
    """Of the held-out clips; must be what the training clips were drawn with."""
    num_clips: int = 24
    """Held-out people, who say one held-out sentence each; of several in a picture as many pictures."""
    max_seconds: float = 10.0
    """At most so much of every clip."""
    steps: int = 0
    """Of both stages together; 0 where no row is trained."""
    train_overrides: list[str] = field(default_factory=list)
    """key=value settings of the training scripts in every row."""
    infer_overrides: list[str] = field(default_factory=list)
    """key=value settings of generation in every row."""
    expression_reader: str | None = None
    """The miniature's own reader of expressions, for metrics that need it."""
    metrics: list[str] = field(default_factory=lambda: ["mouth_truth", "csim_nano", "dis", "motion"])
    rows: list[AblationRowConfig] = MISSING
    motion_control: MotionControlConfig | None = None

    @property
    def trains(self) -> bool:
        """Whether a row is trained."""
        return any(row.trains for row in self.rows)

    @property
    def control_seconds(self) -> float:
        """At most so much of every clip where motion is asked for."""
        return (
            self.max_seconds
            if self.motion_control is None or self.motion_control.max_seconds is None
            else self.motion_control.max_seconds
        )

    @property
    def control_folder(self) -> str:
        """Below the work folder; videos of other lengths are others."""
        return f"control_{self.control_seconds:g}_seconds"

    def validate(self) -> None:
        """Holds the numbers in their limits and the names apart."""
        if not 1 <= self.num_clips <= 200:
            raise InputError(f"clips is {self.num_clips}; it must lie from 1 to 200")
        if self.people != 1 and self.task is not AblationTask.expression:
            raise InputError(f"people is {self.people}; only task=expression knows several in a picture")
        if self.trains and not 2 <= self.steps <= 10**7:
            raise InputError(f"steps is {self.steps}; it must lie from 2 to 10000000")
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{names.count(twice[0])} rows have the name '{twice[0]}'; give each its own")
        if self.motion_control is not None and self.motion_control.row not in names:
            raise InputError(f"control.row is '{self.motion_control.row}'; the rows are: {', '.join(names)}")

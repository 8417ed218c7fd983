"""Configuration of the ablations on nano (configs/nano/ablation.yaml and similar files)."""

import itertools
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.validation import check_ranges
from fantasytalking.portrait_world.render.framed_portrait import PortraitFraming


class AblationTask(Enum):
    """Inputs of generation, which select the benchmark."""

    speech = "speech"
    """A portrait and speech of the same person: portrait_world."""
    expression = "expression"
    """A portrait and driving videos of other people, with rendered ground truth: exprbench_world."""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return {AblationTask.speech: "portrait_world", AblationTask.expression: "exprbench_world"}[self]


@dataclass
class AblationRowConfig:
    """One row of the table."""

    name: str = MISSING
    stage1_fraction: float | None = None
    """Fraction of the training steps that belong to stage 1, in [0, 1]. 1: clip level only, 0: frame level only. None:
    neither stage is trained."""
    portrait_stage: bool = False
    """Whether the portrait stage is trained on the finished pipeline `base`. A row that trains nothing evaluates that
    pipeline."""
    train_overrides: list[str] = field(default_factory=list)
    """key=value settings of the row's training scripts."""
    infer_overrides: list[str] = field(default_factory=list)
    """key=value settings of the row's generation."""
    framing: PortraitFraming | None = None
    """Framing of the portraits from which the row generates (speech only). None: the references' first frames."""
    num_seeds: int = 1
    """Number of trainings that differ in their seed only; each has its own row in the table."""

    @property
    def trains(self) -> bool:
        """Whether the row trains a model."""
        return self.portrait_stage or self.stage1_fraction is not None

    def validate(self) -> None:
        """Validates ranges and that at most one kind of training is configured.

        Raises:
            InputError: a value is out of range, or both kinds of training are configured.
        """
        if self.portrait_stage and self.stage1_fraction is not None:
            raise InputError(
                f"row '{self.name}' has stage1_fraction {self.stage1_fraction} and portrait_stage; set one of them",
                code=ErrorCode.conflict,
                field=f"rows.{self.name}.stage1_fraction",
                value=self.stage1_fraction,
            )
        check_ranges(self, {"stage1_fraction": (0, 1), "num_seeds": (1, 100)}, f"rows.{self.name}.")


@dataclass
class MotionControlConfig:
    """Evaluation of one row's model at several motion intensities."""

    row: str = MISSING
    intensities: list[float] = field(default_factory=lambda: [0.1, 0.5, 1.0])
    """At least two motion intensities in [0, 1], ascending."""
    max_seconds: float | None = None
    """Largest duration of a clip in seconds. None: that of the rows."""

    def validate(self) -> None:
        """Validates the intensities and the duration.

        Raises:
            InputError: the intensities are fewer than two, not ascending or outside [0, 1], or the duration is not
                positive.
        """
        ascending = all(low < high for low, high in itertools.pairwise(self.intensities))
        if len(self.intensities) < 2 or not ascending or not all(0 <= value <= 1 for value in self.intensities):
            raise InputError(
                f"motion_control.intensities is {self.intensities}; it must have at least two ascending values from 0 "
                "to 1",
                code=ErrorCode.out_of_range,
                field="motion_control.intensities",
                value=list(self.intensities),
            )
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(
                f"motion_control.max_seconds is {self.max_seconds}; it must be above 0",
                code=ErrorCode.out_of_range,
                field="motion_control.max_seconds",
                value=self.max_seconds,
            )


@dataclass
class AblationConfig:
    """Configuration of an ablation. All trained rows have the same number of steps, and all rows the same clips."""

    title: str = "Ablation on nano"
    work_dir: str = "outputs/nano/ablation"
    """Folder of all results."""
    base: str = "checkpoints/nano"
    """Folder of the finished pipeline with the frozen base and the encoders."""
    manifest: str = "outputs/nano/corpus/manifest.jsonl"
    """Manifest of the prepared training clips."""
    task: AblationTask = AblationTask.speech
    people: int = 1
    """People per video; more than one require the expression task."""
    size: int = 96
    """Height of the videos in pixels."""
    width: int = 96
    """Width of the videos in pixels."""
    zoom: float = 1.0
    """Magnification of people in the held-out clips; must equal that of the training clips."""
    num_clips: int = 24
    """Number of held-out clips, each of another held-out person or group with one held-out sentence."""
    max_seconds: float = 10.0
    """Largest duration of a clip in seconds."""
    steps: int = 0
    """Training steps of all stages of a row together; 0 if no row is trained."""
    train_overrides: list[str] = field(default_factory=list)
    """key=value settings of the training scripts in every row."""
    infer_overrides: list[str] = field(default_factory=list)
    """key=value settings of generation in every row."""
    expression_reader: str | None = None
    """File of nano's expression reader, for metrics that need it."""
    metrics: list[str] = field(default_factory=lambda: ["mouth_truth", "csim_nano", "dis", "motion"])
    rows: list[AblationRowConfig] = MISSING
    motion_control: MotionControlConfig | None = None

    @property
    def trains(self) -> bool:
        """Whether any row is trained."""
        return any(row.trains for row in self.rows)

    @property
    def control_seconds(self) -> float:
        """Largest duration of a clip in seconds in the evaluation of motion control."""
        if self.motion_control is None or self.motion_control.max_seconds is None:
            return self.max_seconds
        return self.motion_control.max_seconds

    @property
    def control_folder(self) -> str:
        """Folder of the evaluation of motion control below the work folder; its name contains the duration."""
        return f"control_{self.control_seconds:g}_seconds"

    def validate(self) -> None:
        """Validates ranges and the names of the rows.

        Raises:
            InputError: a number is out of range, two rows have one name, or motion_control.row does not exist.
        """
        check_ranges(self, {"num_clips": (1, 200)} | ({"steps": (2, 1e7)} if self.trains else {}))
        if self.people != 1 and self.task is not AblationTask.expression:
            raise InputError(
                f"people is {self.people}; task={self.task.value} allows 1, use task=expression",
                code=ErrorCode.conflict,
                field="people",
                value=self.people,
            )
        framed = [row for row in self.rows if row.framing is not None]
        if framed and self.task is not AblationTask.speech:
            raise InputError(
                f"row '{framed[0].name}' has a framing, which task={self.task.value} does not support; remove it",
                code=ErrorCode.conflict,
                field=f"rows.{framed[0].name}.framing",
                value=self.task.value,
            )
        names = [row.name for row in self.rows]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InputError(
                f"{names.count(repeated[0])} rows have the name '{repeated[0]}'; give each row its own name",
                code=ErrorCode.conflict,
                field="rows",
                value=repeated[0],
            )
        if self.motion_control is not None and self.motion_control.row not in names:
            raise InputError(
                f"motion_control.row is '{self.motion_control.row}'; use one of the rows: {', '.join(names)}",
                code=ErrorCode.invalid_choice,
                field="motion_control.row",
                value=self.motion_control.row,
            )

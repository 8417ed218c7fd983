"""The paper's ablation on the miniature (configs/nano/ablation.yaml): what is trained, and what is asked of it."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from fantasytalking.errors import InputError


@dataclass
class RowConfig:
    """One row of the table."""

    name: str = MISSING
    stage1_share: float | None = None
    """Of the steps that are stage 1's; 1: clip level alone, 0: frame level alone; none: nothing is trained, and the row
    is the pipeline in `components` as it stands."""
    train: list[str] = field(default_factory=list)
    """key=value settings of both training scripts."""
    infer: list[str] = field(default_factory=list)
    """key=value settings of generation."""
    seeds: int = 1
    """Trainings that differ in their seed alone; each gets a row."""

    def validate(self) -> None:
        """Holds the numbers in their limits."""
        if self.stage1_share is not None and not 0 <= self.stage1_share <= 1:
            raise InputError(f"stage1_share of '{self.name}' is {self.stage1_share}; it must lie from 0 to 1")
        if not 1 <= self.seeds <= 100:
            raise InputError(f"seeds of '{self.name}' is {self.seeds}; it must lie from 1 to 100")


@dataclass
class ControlConfig:
    """The row whose model is asked for several intensities of motion."""

    row: str = MISSING
    intensities: list[float] = field(default_factory=lambda: [0.1, 0.5, 1.0])

    def validate(self) -> None:
        """Holds the intensities in their limits."""
        if len(self.intensities) < 2 or not all(0 <= value <= 1 for value in self.intensities):
            raise InputError(f"control.intensities is {self.intensities}; give two and more, from 0 to 1")


@dataclass
class AblationConfig:
    """All rows; every one that is trained has the same number of steps, and all have the same clips."""

    title: str = "Ablation on nano"
    work: str = "outputs/nano/ablation"
    components: str = "checkpoints/nano"
    """Frozen base and encoders."""
    manifest: str = "outputs/nano/corpus/manifest.jsonl"
    """Prepared training clips."""
    size: int = 96
    closeness: float = 1.0
    """Of the held-out clips; must be what the training clips were drawn with."""
    clips: int = 24
    """Held-out people, who say one held-out sentence each."""
    seconds: float = 10.0
    """At most so much of every clip."""
    steps: int = 0
    """Of both stages together; 0 where no row is trained."""
    train: list[str] = field(default_factory=list)
    """key=value settings of the training scripts in every row."""
    infer: list[str] = field(default_factory=list)
    """key=value settings of generation in every row."""
    metrics: list[str] = field(default_factory=lambda: ["mouth_truth", "csim_nano", "dis", "motion"])
    rows: list[RowConfig] = MISSING
    control: ControlConfig | None = None

    @property
    def trains(self) -> bool:
        """Whether a row is trained."""
        return any(row.stage1_share is not None for row in self.rows)

    def validate(self) -> None:
        """Holds the numbers in their limits and the names apart."""
        if not 1 <= self.clips <= 200:
            raise InputError(f"clips is {self.clips}; it must lie from 1 to 200")
        if self.trains and not 2 <= self.steps <= 10**7:
            raise InputError(f"steps is {self.steps}; it must lie from 2 to 10000000")
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{names.count(twice[0])} rows have the name '{twice[0]}'; give each its own")
        if self.control is not None and self.control.row not in names:
            raise InputError(f"control.row is '{self.control.row}'; the rows are: {', '.join(names)}")

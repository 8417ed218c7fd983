"""What a metric is: measured clip by clip into records, summarised from records alone.

Records are what a run keeps on disk. Because a summary is a pure function of records, intervals come from resampling
them, floors and controls from records of other pairs, and results of many processes from putting theirs together.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.weights import MetricWeights

Measurement = dict[str, NDArray]
"""What one pair gives: scalars as 0-d arrays, features as (N, D), curves as (P,). NaN: could not be measured."""


class MetricValue(NamedTuple):
    """One number of a metric's summary."""

    name: str
    """Key of the summary; unique over all metrics."""
    unit: str
    """As shown in tables; empty for a plain number."""
    better: Literal["higher", "lower", "reference"]
    """`reference`: the closer to the ground truth's own score the better."""
    description: str
    """One sentence for the report."""


class MetricCurve(NamedTuple):
    """An entry of a metric's records that is drawn over time: (P,), one point a full second of the clip."""

    name: str
    unit: str
    description: str


class Target(Enum):
    """What a paired metric holds a video against."""

    REFERENCE = "reference"
    """The video that it should be."""
    PORTRAIT = "portrait"
    """The picture that it is made from: the reference's first frame where there is no other."""
    DRIVER = "driver"
    """Those whose expression drives it: the reference where there is no other."""


class Metric(ABC):
    """One metric. Constructed with the folder of weights, whose `required_weights` have been found there before."""

    name: ClassVar[str]
    """Key in the registry, as given to --metrics."""
    values: ClassVar[tuple[MetricValue, ...]]
    required_weights: ClassVar[tuple[MetricWeights, ...]] = ()
    paired: ClassVar[bool]
    """Whether the reference is looked at. If not, the ground truth gets a score of its own."""
    target: ClassVar[Target] = Target.REFERENCE
    """What stands for the reference, if it is looked at."""
    reenactment_only: ClassVar[bool] = False
    """Whether it is about those who drive: benchmarks of reenactment alone have it."""
    per_person: ClassVar[bool] = False
    """Whether it looks at one face: where a video shows several, their records are averaged."""
    uses_audio: ClassVar[bool] = False
    """Whether the sound matters: then the run measures every clip with another's sound as well, as a control."""
    distribution: ClassVar[bool] = False
    """A distance of two sets of clips (`video` and `reference` features in a record): one clip alone has no score, and
    the floor is one half of the references against the other."""
    resamples: ClassVar[int] = 1000
    """Bootstrap resamples of an interval; fewer where a summary is slow."""
    curves: ClassVar[tuple[MetricCurve, ...]] = ()
    version: ClassVar[int] = 1
    """Rises when records hold other things, or the same measured otherwise: older records are measured anew."""

    def __init__(self, weights: Path | None = None) -> None:
        self._measurements: list[Measurement] = []

    @classmethod
    def for_records(cls) -> Self:
        """An instance without weights, which summarises records of earlier runs and cannot measure."""
        return cls.__new__(cls)

    @abstractmethod
    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """One clip; deterministic and without state. `reference` is None only where `paired` is False.

        Clips of a pair have equal frame rates, lengths and sizes. What cannot be measured (no face, no sound) is NaN.
        """

    @abstractmethod
    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Every name of `values`, and `n`, the number of clips that entered; from the records alone."""

    def update(self, video: EvaluationClip, reference: EvaluationClip | None) -> None:
        """Measures one clip and keeps its record."""
        self._measurements.append(self.measure(video, reference))

    def compute(self) -> dict[str, float]:
        """The summary of everything since the last `reset`."""
        return self.summarize(self._measurements)

    def reset(self) -> None:
        """Forgets all records."""
        self._measurements.clear()


def mean_over_people(measurements: Sequence[Measurement]) -> Measurement:
    """The record of a clip from those of everyone in it, entry by entry; NaN where somebody's is."""
    return {name: np.mean([record[name] for record in measurements], axis=0) for name in measurements[0]}


def mean_over_clips(measurements: Sequence[Measurement], names: Sequence[str]) -> dict[str, float]:
    """Means of 0-d entries over the clips where all of them are finite, and `n`, the number of these clips."""
    table = np.array([[float(record[name]) for name in names] for record in measurements]).reshape(-1, len(names))
    table = table[np.isfinite(table).all(axis=1)]
    means = table.mean(axis=0) if len(table) else np.full(len(names), np.nan)
    return {name: float(mean) for name, mean in zip(names, means, strict=True)} | {"n": float(len(table))}

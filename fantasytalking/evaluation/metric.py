"""The interface of a metric: it measures clips one by one and summarizes the measurements.

Measurements are what a run keeps on disk. A summary is a pure function of measurements: confidence intervals come from
resampling them, floors and controls from measurements of other pairs, and the work can be split between processes.

A metric is one file below `metrics/`: a subclass of `Metric`, or of one of the bases in this file, with the decorator
`register_metric`. `registry.METRICS` finds it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.weights import MetricWeights

Measurement = dict[str, NDArray]
"""Entries measured on one clip: scalars as 0-d arrays, features as (N, D), curves as (P,). NaN = not measurable."""


class MetricValue(NamedTuple):
    """One number of a metric's summary."""

    name: str
    """Key in the summary; unique across all metrics."""
    unit: str
    """Unit shown in tables; empty for a plain number."""
    better: Literal["higher", "lower", "reference"]
    """Which values are better; `reference` = the closer to the score of the reference videos, the better."""
    description: str
    """One sentence for the report."""


class MetricCurve(NamedTuple):
    """An entry of the measurements that the report plots over time: (P,), one point per full second of the clip."""

    name: str
    unit: str
    description: str


class Target(Enum):
    """What a paired metric compares a video with."""

    REFERENCE = "reference"
    """The reference video."""
    PORTRAIT = "portrait"
    """The portrait that the video is generated from, or the first frame of the reference if there is none."""
    DRIVER = "driver"
    """The driving video, or the reference if there is none."""


class Metric(ABC):
    """A metric, constructed with the folder of weights, in which its `required_weights` exist."""

    name: ClassVar[str]
    """Key in the registry and value of --metrics."""
    values: ClassVar[tuple[MetricValue, ...]]
    """Numbers of the summary, in the order of the report."""
    required_weights: ClassVar[tuple[MetricWeights, ...]] = ()
    """Weights without which the metric is skipped."""
    paired: ClassVar[bool]
    """Whether `measure` compares with a target. If not, the reference videos get a score of their own."""
    target: ClassVar[Target] = Target.REFERENCE
    """What a paired metric compares with."""
    reenactment_only: ClassVar[bool] = False
    """Whether the metric needs a driving video, which only benchmarks of reenactment have."""
    per_person: ClassVar[bool] = False
    """Whether the metric measures one face. Measurements of several people in a video are averaged."""
    uses_audio: ClassVar[bool] = False
    """Whether the audio matters. The runner then also measures each clip with the audio of another, as a control."""
    distribution: ClassVar[bool] = False
    """Whether the metric is a distance between two sets of clips (entries `video` and `reference`). A single clip then
    has no score, and the floor is the distance between two halves of the references."""
    resamples: ClassVar[int] = 1000
    """Number of bootstrap resamples of a confidence interval; lower where a summary is slow."""
    curves: ClassVar[tuple[MetricCurve, ...]] = ()
    """Entries that the report plots over time."""
    version: ClassVar[int] = 1
    """Version of the measurements. Increase it when their entries or values change: older records are then measured
    again."""

    def __init__(self, weights: Path | None = None) -> None:
        self._measurements: list[Measurement] = []

    @classmethod
    def for_records(cls) -> Self:
        """Returns an instance without weights, which can summarize measurements but not measure."""
        return cls.__new__(cls)

    @abstractmethod
    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Measures one clip; deterministic and without state.

        Args:
            video: the clip to measure.
            reference: the target of a paired metric, with the frame rate, length and size of `video`; None only if
                `paired` is False.

        Returns:
            the entries of the measurement; NaN where something cannot be measured (no face, no audio).
        """

    @abstractmethod
    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns each of `values` by name and `n`, the number of clips that entered the score."""

    def update(self, video: EvaluationClip, reference: EvaluationClip | None) -> None:
        """Measures one clip and keeps the measurement for `compute`."""
        self._measurements.append(self.measure(video, reference))

    def compute(self) -> dict[str, float]:
        """Returns the summary of all measurements since the last `reset`."""
        return self.summarize(self._measurements)

    def reset(self) -> None:
        """Discards all measurements."""
        self._measurements.clear()


class MeanMetric(Metric):
    """Base of metrics whose summary is the mean over clips of entries named like `values`."""

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns means over the clips in which all values were measured."""
        return mean_over_clips(measurements, [value.name for value in self.values])

    def not_measurable(self) -> Measurement:
        """Returns NaN for each of `values`."""
        return {value.name: np.array(np.nan) for value in self.values}


class PairedMetric(MeanMetric):
    """Base of metrics that compare a video with its target."""

    paired = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Measures one pair of clips; see `compare`."""
        assert reference is not None, f"{self.name} compares a video with its {self.target.value}"
        return self.compare(video, reference)

    @abstractmethod
    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Measures `video` against its target, which has the same frame rate, length and size."""


class FrameMetric(PairedMetric):
    """Base of metrics with one value: the mean over frames of `frame_score`, averaged over clips."""

    min_frame_side: ClassVar[int] = 1
    """Smallest height and width in pixels; smaller videos are not measured."""

    @abstractmethod
    def frame_score(self, frame: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float | np.floating:
        """Returns the score of one (H, W, 3) uint8 RGB frame against the reference frame of the same size."""

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the mean score over frames; NaN for frames smaller than `min_frame_side`."""
        if min(video.frames.shape[1:3]) < self.min_frame_side:
            return self.not_measurable()
        (value,) = self.values
        pairs = zip(video.frames, reference.frames, strict=True)
        scores = np.array([self.frame_score(frame, other) for frame, other in pairs])
        return {value.name: np.array(scores.mean())}


MetricT = TypeVar("MetricT", bound=type[Metric])


class RegisteredMetric(NamedTuple):
    """A metric with its position in reports."""

    rank: float
    metric: type[Metric]


REGISTERED_METRICS: dict[str, RegisteredMetric] = {}
"""Metrics by name, in the order of registration; `registry.METRICS` has them in the order of reports."""
LAST_RANK = float("inf")


def register_metric(rank: float = LAST_RANK) -> Callable[[MetricT], MetricT]:
    """Registers a metric class under its `name`.

    Args:
        rank: position in reports, ascending; metrics of equal rank are sorted by name. Default: after all others.

    Returns:
        a class decorator, which returns the class unchanged.
    """

    def register(metric: MetricT) -> MetricT:
        assert metric.name not in REGISTERED_METRICS, f"two metrics have the name '{metric.name}'"
        REGISTERED_METRICS[metric.name] = RegisteredMetric(rank, metric)
        return metric

    return register


def mean_over_people(measurements: Sequence[Measurement]) -> Measurement:
    """Returns the mean of the measurements of all people in a clip, entry by entry; NaN where one of them is NaN."""
    return {name: np.mean([record[name] for record in measurements], axis=0) for name in measurements[0]}


def mean_over_clips(measurements: Sequence[Measurement], names: Sequence[str]) -> dict[str, float]:
    """Returns the means of 0-d entries over the clips where all of them are finite, and `n`, the number of clips."""
    table = np.array([[float(record[name]) for name in names] for record in measurements]).reshape(-1, len(names))
    table = table[np.isfinite(table).all(axis=1)]
    means = table.mean(axis=0) if len(table) else np.full(len(names), np.nan)
    return {name: float(mean) for name, mean in zip(names, means, strict=True)} | {"n": float(len(table))}

"""Results of an evaluation, written to results.json and loaded for tables and comparisons."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.limits import MAX_RESULTS_BYTES
from fantasytalking.common.text_files import read_json
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide
from fantasytalking.evaluation.registry import SkippedMetric
from fantasytalking.evaluation.report.statistics import (
    Estimate,
    Estimates,
    bootstrap_estimate,
    floor_estimate,
    per_clip_scores,
    side_estimate,
)

RESULTS_FILE = "results.json"
RESULTS_FORMAT = 1
BETTER_DIRECTIONS = ("higher", "lower", "reference")
"""Which scores are better: higher or lower ones, or those closer to the reference's."""


@dataclass(frozen=True)
class ResultRow:
    """One value of one metric."""

    metric: str
    value: str
    unit: str
    better: str
    description: str
    score: Estimate
    """Score of the predictions."""
    truth: Estimate | None
    """Score of the reference videos; None for a paired metric of the reference."""
    floor: Estimate | None
    """Score of real against real videos; see `floor_estimate`."""
    control: Estimate | None
    """Score with the audio of another clip."""
    per_clip: dict[str, float]
    """Score of each clip by name; empty for a distribution metric. NaN = not measurable."""
    truth_per_clip: dict[str, float]
    """Score of each reference by the clip's name."""


@dataclass(frozen=True)
class ResultCurve:
    """Values of a metric over time, one per second."""

    name: str
    unit: str
    description: str
    per_clip: dict[str, list[float]]
    truth_per_clip: dict[str, list[float]]


@dataclass(frozen=True)
class EvaluationResults:
    """The results of one evaluation."""

    name: str
    benchmark: str
    protocol: str
    """Id of the protocol: only results of equal ids are comparable."""
    clips: list[str]
    fps: float
    width: int
    height: int
    rows: list[ResultRow]
    curves: list[ResultCurve]
    skipped: list[str]
    """Metrics that were skipped because weights are missing, one line each."""

    def find_row(self, value: str) -> ResultRow | None:
        """Returns the row of a value; None if there is none."""
        return next((row for row in self.rows if row.value == value), None)

    def save(self, folder: Path) -> None:
        """Writes results.json to a folder; NaN is written as null."""
        values = {"format": RESULTS_FORMAT, **_json_value(asdict(self))}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write_text(folder / RESULTS_FILE, text + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "EvaluationResults":
        """Loads results written by `save`.

        Raises:
            InputError: the file is missing, too large, or does not contain results of this format.
        """
        values = read_json(path, "results", MAX_RESULTS_BYTES, allow_nan=False)
        try:
            if values.pop("format") != RESULTS_FORMAT:
                raise ValueError("another format")
            rows = [_parse_row(row) for row in values.pop("rows")]
            curves = [ResultCurve(**_checked(ResultCurve, _parse_curve(curve))) for curve in values.pop("curves")]
            if not all(isinstance(clip, str) for clip in [*values["clips"], *values["skipped"]]):
                raise TypeError("clips and skipped are lists of names")
            return cls(rows=rows, curves=curves, **_checked(cls, values))
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"'{path}' is not a results.json ({error!r}); give one that evaluate.py wrote",
                code=ErrorCode.malformed_file,
                field=RESULTS_FILE,
                value=str(path),
            ) from error


def collect_results(
    name: str,
    protocol: BenchmarkProtocol,
    measured: Sequence[tuple[Metric, Sequence[ClipMeasurements]]],
    skipped: Sequence[SkippedMetric],
) -> EvaluationResults:
    """Summarizes all measurements into scores with intervals, floors and controls."""
    clips = [clip.name for clip in protocol.clips]
    rows: list[ResultRow] = []
    curves: list[ResultCurve] = []
    for metric, sides in measured:
        rows += _rows(metric, sides, clips)
        curves += _curves(metric, sides, clips)
    return EvaluationResults(
        name=name,
        benchmark=protocol.benchmark,
        protocol=protocol.id,
        clips=clips,
        fps=protocol.fps,
        width=protocol.width,
        height=protocol.height,
        rows=rows,
        curves=curves,
        skipped=[entry.describe() for entry in skipped],
    )


def _rows(metric: Metric, sides: Sequence[ClipMeasurements], clips: Sequence[str]) -> list[ResultRow]:
    score = bootstrap_estimate(metric, [record[MeasurementSide.PREDICTION] for record in sides])
    truth, control = (
        side_estimate(metric, sides, side) for side in (MeasurementSide.REFERENCE, MeasurementSide.CONTROL)
    )
    floor = floor_estimate(metric, sides)
    per_clip = per_clip_scores(metric, sides)
    truth_per_clip = per_clip_scores(metric, sides, MeasurementSide.REFERENCE)

    def select(estimates: Estimates | None, value: str) -> Estimate | None:
        return None if estimates is None else estimates[value]

    def by_clip(scores: dict[str, np.ndarray], value: str) -> dict[str, float]:
        return dict(zip(clips, scores[value].tolist(), strict=True)) if value in scores else {}

    return [
        ResultRow(
            metric=metric.name,
            value=value.name,
            unit=value.unit,
            better=value.better,
            description=value.description,
            score=score[value.name],
            truth=select(truth, value.name),
            floor=select(floor, value.name),
            control=select(control, value.name),
            per_clip=by_clip(per_clip, value.name),
            truth_per_clip=by_clip(truth_per_clip, value.name),
        )
        for value in metric.values
    ]


def _curves(metric: Metric, sides: Sequence[ClipMeasurements], clips: Sequence[str]) -> list[ResultCurve]:
    def points(side: MeasurementSide, name: str) -> dict[str, list[float]]:
        pairs = zip(clips, sides, strict=True)
        return {clip: record[side][name].tolist() for clip, record in pairs if name in record.get(side, {})}

    return [
        ResultCurve(
            *curve, points(MeasurementSide.PREDICTION, curve.name), points(MeasurementSide.REFERENCE, curve.name)
        )
        for curve in metric.curves
    ]


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _float_or_nan(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)


def _checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a dataclass if its texts and numbers are such."""
    for name, hint in get_type_hints(kind).items():
        allowed = {str: (str,), int: (int,), float: (int, float)}.get(hint)
        if allowed is not None and type(values[name]) not in allowed:
            raise TypeError(f"{name} is not of the type {hint.__name__}")
        if allowed == (int, float):
            _float_or_nan(values[name])
    return values


def _parse_row(values: dict[str, Any]) -> ResultRow:
    for side in ("score", "truth", "floor", "control"):
        if values[side] is not None:
            part = values[side]
            score, low, high = (_float_or_nan(part[key]) for key in ("score", "low", "high"))
            values[side] = Estimate(score, low, high, int(part["n"]))
    for side in ("per_clip", "truth_per_clip"):
        values[side] = {clip: _float_or_nan(score) for clip, score in values[side].items()}
    if values["better"] not in BETTER_DIRECTIONS:
        raise ValueError(f"better is none of {', '.join(BETTER_DIRECTIONS)}")
    return ResultRow(**_checked(ResultRow, values))


def _parse_curve(values: dict[str, Any]) -> dict[str, Any]:
    for side in ("per_clip", "truth_per_clip"):
        values[side] = {clip: [_float_or_nan(point) for point in points] for clip, points in values[side].items()}
    return values

"""results.json: everything that one evaluation says, read back for tables and comparisons."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file, written_whole
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.records import Side, Sides
from fantasytalking.evaluation.registry import Skipped
from fantasytalking.evaluation.report.statistics import (
    Estimate,
    Estimates,
    estimate,
    floor_estimate,
    per_clip,
    side_estimate,
)

RESULTS = "results.json"
FORMAT = 1
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Row:
    """One value of one metric."""

    metric: str
    value: str
    unit: str
    better: str
    description: str
    score: Estimate
    truth: Estimate | None
    """The reference videos' own score, where a metric looks at one video."""
    floor: Estimate | None
    """Real against real; see `floor_estimate`."""
    control: Estimate | None
    """With another clip's sound."""
    per_clip: dict[str, float]
    """Score of every clip alone; empty for a distribution metric. NaN: could not be measured."""
    truth_per_clip: dict[str, float]


@dataclass(frozen=True)
class DrawnCurve:
    """A metric's values over time, one a second."""

    name: str
    unit: str
    description: str
    per_clip: dict[str, list[float]]
    truth_per_clip: dict[str, list[float]]


@dataclass(frozen=True)
class Results:
    """One evaluation."""

    name: str
    benchmark: str
    protocol: str
    """The protocol's id: only results of equal ids may stand side by side."""
    clips: list[str]
    fps: float
    width: int
    height: int
    rows: list[Row]
    curves: list[DrawnCurve]
    skipped: list[str]
    """Metrics without weights, one line each."""

    def row(self, value: str) -> Row | None:
        """The row of a value."""
        return next((row for row in self.rows if row.value == value), None)

    def save(self, folder: Path) -> None:
        """Writes results.json; NaN becomes null."""
        with written_whole(folder / RESULTS) as temporary:
            text = json.dumps({"format": FORMAT, **_plain(asdict(self))}, indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, too large, or no results of this format.
        """
        path = existing_file(path, "results")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"'{path}' has {path.stat().st_size} bytes; results have at most {MAX_BYTES}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            rows = [_row(row) for row in values.pop("rows")]
            curves = [DrawnCurve(**_curve(curve)) for curve in values.pop("curves")]
            return cls(rows=rows, curves=curves, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"'{path}' is no results.json ({error!r}); give one that evaluate.py wrote") from error


def collect(
    name: str,
    protocol: Protocol,
    measured: Sequence[tuple[Metric, Sequence[Sides]]],
    skipped: Sequence[Skipped],
) -> Results:
    """Summaries of all records: scores, intervals, floors and controls."""
    clips = [clip.name for clip in protocol.clips]
    rows: list[Row] = []
    curves: list[DrawnCurve] = []
    for metric, sides in measured:
        rows += _rows(metric, sides, clips)
        curves += _curves(metric, sides, clips)
    told = [entry.told() for entry in skipped]
    size = (protocol.fps, protocol.width, protocol.height)
    return Results(name, protocol.benchmark, protocol.id, clips, *size, rows, curves, told)


def _rows(metric: Metric, sides: Sequence[Sides], clips: Sequence[str]) -> list[Row]:
    score = estimate(metric, [record[Side.PREDICTION] for record in sides])
    truth, control = (side_estimate(metric, sides, side) for side in (Side.TRUTH, Side.CONTROL))
    floor = floor_estimate(metric, sides)
    alone, truth_alone = per_clip(metric, sides), per_clip(metric, sides, Side.TRUTH)

    def of(estimates: Estimates | None, value: str) -> Estimate | None:
        return None if estimates is None else estimates[value]

    def named(scores: dict[str, np.ndarray], value: str) -> dict[str, float]:
        return dict(zip(clips, scores[value].tolist(), strict=True)) if value in scores else {}

    return [
        Row(
            metric.name, value.name, value.unit, value.better, value.description, score[value.name],
            of(truth, value.name), of(floor, value.name), of(control, value.name),
            named(alone, value.name), named(truth_alone, value.name),
        )
        for value in metric.values
    ]  # fmt: skip


def _curves(metric: Metric, sides: Sequence[Sides], clips: Sequence[str]) -> list[DrawnCurve]:
    def of(side: Side, name: str) -> dict[str, list[float]]:
        pairs = zip(clips, sides, strict=True)
        return {clip: record[side][name].tolist() for clip, record in pairs if name in record.get(side, {})}

    return [DrawnCurve(*curve, of(Side.PREDICTION, curve.name), of(Side.TRUTH, curve.name)) for curve in metric.curves]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _row(values: dict[str, Any]) -> Row:
    for side in ("score", "truth", "floor", "control"):
        if values[side] is not None:
            part = values[side]
            score, low, high = (_number(part[key]) for key in ("score", "low", "high"))
            values[side] = Estimate(score, low, high, int(part["n"]))
    for side in ("per_clip", "truth_per_clip"):
        values[side] = {clip: _number(score) for clip, score in values[side].items()}
    return Row(**values)


def _curve(values: dict[str, Any]) -> dict[str, Any]:
    for side in ("per_clip", "truth_per_clip"):
        values[side] = {clip: [_number(point) for point in points] for clip, points in values[side].items()}
    return values

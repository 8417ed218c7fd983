"""Tables of several results, with runs as rows, and paired comparisons of two results."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.records import ClipMeasurements, load_record, record_path, stored_measurement_key
from fantasytalking.evaluation.registry import METRICS
from fantasytalking.evaluation.report.html import render_template
from fantasytalking.evaluation.report.markdown import (
    REPORT_NOTES,
    format_estimate,
    format_number,
    markdown_text,
    row_heading,
    summary_line,
)
from fantasytalking.evaluation.report.results import EvaluationResults, ResultRow
from fantasytalking.evaluation.report.statistics import (
    CONFIDENCE_LEVEL,
    Estimate,
    PairedDifference,
    compare_runs,
    holm_correction,
)
from fantasytalking.evaluation.runner import PROTOCOL_FILE

TABLE_MARK = "bootstrap intervals over clips"
"""Words of `REPORT_NOTES` by which a table of an earlier run is known."""


def load_comparable(paths: Sequence[Path]) -> list[EvaluationResults]:
    """Loads results that have the same protocol and different names.

    Raises:
        InputError: a file does not contain results, protocols differ, or two runs have the same name.
    """
    loaded = [EvaluationResults.load(path) for path in paths]
    for path, results in zip(paths, loaded, strict=True):
        if results.protocol != loaded[0].protocol:
            raise InputError(
                f"'{path}' has protocol {results.protocol}, but '{paths[0]}' has {loaded[0].protocol}; only results of "
                "one protocol are comparable",
                code=ErrorCode.conflict,
                field="protocol",
                value=results.protocol,
            )
    names = [results.name for results in loaded]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{names.count(repeated[0])} results have the name '{repeated[0]}'; evaluate again with --name",
            code=ErrorCode.conflict,
            field="name",
            value=repeated[0],
        )
    return loaded


def write_comparison_table(
    runs: Sequence[EvaluationResults], output: Path, title: str, metrics: Sequence[str] | None = None
) -> None:
    """Writes table.md and table.html: one row per run with intervals, then the scores of real videos and the floors.

    Args:
        runs: results of one protocol.
        output: folder of the two files.
        title: heading of the table.
        metrics: metrics to include; None = all.

    Raises:
        InputError: no run has one of `metrics`, or a file of another kind would be replaced.
    """
    known = {row.metric for results in runs for row in results.rows}
    if unknown := [name for name in metrics or () if name not in known]:
        raise InputError(
            f"metric '{unknown[0]}' is in none of the results; known: {', '.join(sorted(known))}",
            code=ErrorCode.unknown_key,
            field="--metrics",
            value=unknown[0],
        )
    for name in ("table.md", "table.html"):
        _check_replaceable(output / name)
    shown = [row for results in runs for row in results.rows if metrics is None or row.metric in metrics]
    firsts = {row.value: row for row in reversed(shown)}  # a run may lack a metric: take the first that has it
    columns = [firsts[value] for value in dict.fromkeys(row.value for row in shown)]
    rows = [(results.name, [_score(results.find_row(column.value)) for column in columns]) for results in runs]
    rows += [("real", [column.truth for column in columns]), ("floor", [column.floor for column in columns])]
    heads = [row_heading(column) for column in columns]
    lines = [
        f"# {markdown_text(title)}",
        "",
        markdown_text(summary_line(runs[0])),
        "",
        f"| run | {' | '.join(map(markdown_text, heads))} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    lines += [f"| {markdown_text(name)} | {' | '.join(map(format_estimate, cells))} |" for name, cells in rows]
    atomic_write_text(output / "table.md", "\n".join([*lines, "", REPORT_NOTES, ""]))
    legend = [(row_heading(column), column.description) for column in columns]
    render_template(
        "table.html",
        output / "table.html",
        title=title,
        facts=summary_line(runs[0]),
        heads=heads,
        rows=rows,
        legend=legend,
    )


def _score(row: ResultRow | None) -> Estimate | None:
    return None if row is None else row.score


class ComparedValue(NamedTuple):
    """A value compared between two runs."""

    heading: str
    difference: PairedDifference
    corrected: float
    """p with Holm's correction over all values of the comparison."""


def compare_results(first: Path, second: Path) -> list[ComparedValue]:
    """Runs paired tests of each value that both runs have, from the records beside their results.json.

    Raises:
        InputError: the protocols differ, records are missing, or metrics have other versions or weights.
    """
    one, other = load_comparable([first, second])
    protocol = BenchmarkProtocol.load(first.parent / PROTOCOL_FILE)
    if protocol.id != one.protocol:
        raise InputError(
            f"'{first.parent / PROTOCOL_FILE}' has id {protocol.id}, but '{first}' has {one.protocol}; evaluate again",
            code=ErrorCode.conflict,
            field="protocol",
            value=protocol.id,
        )
    shared = {row.metric for row in one.rows} & {row.metric for row in other.rows}
    found: list[tuple[ResultRow, PairedDifference]] = []
    for name in (name for name in METRICS if name in shared):
        key = _shared_measurement_key([first.parent, second.parent], name, one.clips[0])
        sides = [_load_records(path.parent, name, one.clips, key) for path in (first, second)]
        differences = compare_runs(METRICS[name].for_records(), *sides)
        found += [(row, differences[row.value]) for row in one.rows if row.metric == name]
    corrected = holm_correction([difference.p for _, difference in found])
    return [ComparedValue(row_heading(row), gap, p) for (row, gap), p in zip(found, corrected, strict=True)]


def _shared_measurement_key(folders: Sequence[Path], metric: str, clip: str) -> str:
    """Returns the measurement key that the records of a metric have in all folders.

    Raises:
        InputError: versions or weights differ.
    """
    found = {str(folder): stored_measurement_key(record_path(folder, metric, clip)) for folder in folders}
    known = {key for key in found.values() if key is not None}
    version = str(METRICS[metric].version)
    if len(known) > 1 or any(key.split(" ")[0] != version for key in known):
        raise InputError(
            f"metric '{metric}' has other weights or another version in one of {', '.join(map(repr, found))}; evaluate "
            "again",
            code=ErrorCode.conflict,
            field=metric,
            value=sorted(known),
        )
    return known.pop() if known else version


def _check_replaceable(path: Path) -> None:
    """Raises where a file exists that is not a table of an earlier run."""
    if path.exists() and TABLE_MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"'{path}' exists and is not a table of an earlier run; choose another --output",
            code=ErrorCode.output_exists,
            field="--output",
            value=str(path),
        )


def _load_records(folder: Path, metric: str, clips: Sequence[str], measurement_key: str) -> list[ClipMeasurements]:
    found = {clip: load_record(record_path(folder, metric, clip), measurement_key) for clip in clips}
    missing = [clip for clip, record in found.items() if record is None]
    if missing:
        raise InputError(
            f"{len(missing)} records of metric '{metric}' in '{folder}' are missing: "
            f"{', '.join(missing[:MAX_LISTED_NAMES])}; evaluate again",
            code=ErrorCode.missing_file,
            field=metric,
            value=missing,
        )
    return [record for record in found.values() if record is not None]


def format_comparison(first: str, second: str, compared: Sequence[ComparedValue]) -> str:
    """Returns a comparison as a Markdown table."""
    names = f"{markdown_text(first)} | {markdown_text(second)}"
    lines = [
        f"| measure | {names} | difference [{CONFIDENCE_LEVEL:g} %] | p | p, Holm | N | of the value itself |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in compared:
        gap = entry.difference
        cells = [
            format_number(gap.first),
            format_number(gap.second),
            _format_interval(gap.difference, gap.low, gap.high),
        ]
        cells += [format_number(gap.p), format_number(entry.corrected), str(gap.n)]
        cells.append("" if gap.raw_difference is None else _format_interval(*gap.raw_difference))
        lines.append(f"| {markdown_text(entry.heading)} | {' | '.join(cells)} |")
    lines += [
        "",
        "Difference: second minus first. For values that should equal those of the real videos (→ real), it is the "
        "difference of the distances to them; the last column has the difference of the values. p: Wilcoxon's "
        "signed-rank test over clips.",
    ]
    return "\n".join(lines)


def _format_interval(value: float, low: float, high: float) -> str:
    return format_number(value) + (f" [{format_number(low)}, {format_number(high)}]" if math.isfinite(low) else "")

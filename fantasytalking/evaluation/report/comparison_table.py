"""Several results side by side: runs as rows, as an ablation is shown; and two of them compared clip by clip."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.records import ClipMeasurements, load_record, record_path, stored_measurement_key
from fantasytalking.evaluation.registry import METRICS
from fantasytalking.evaluation.report.html import render_template
from fantasytalking.evaluation.report.markdown import (
    REPORT_NOTES,
    format_estimate,
    format_number,
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


def load_comparable(paths: Sequence[Path]) -> list[EvaluationResults]:
    """Results of one protocol with a name each.

    Raises:
        InputError: a file is no results, protocols differ, or two runs have one name.
    """
    loaded = [EvaluationResults.load(path) for path in paths]
    odd = [place for place, results in enumerate(loaded) if results.protocol != loaded[0].protocol]
    if odd:
        raise InputError(
            f"'{paths[0]}' is of protocol {loaded[0].protocol} and '{paths[odd[0]]}' of {loaded[odd[0]].protocol}; "
            "only results of one protocol may stand side by side"
        )
    names = [results.name for results in loaded]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{names.count(twice[0])} results have the name '{twice[0]}'; evaluate with --name")
    return loaded


def write_comparison_table(
    runs: Sequence[EvaluationResults], output: Path, title: str, metrics: Sequence[str] | None = None
) -> None:
    """table.md and table.html: a row a run with intervals, the real videos' own scores and the floors as the last rows.

    Args:
        metrics: those to show; None: all.

    Raises:
        InputError: one of them is in no run.
    """
    known = {row.metric for results in runs for row in results.rows}
    if unknown := [name for name in metrics or () if name not in known]:
        raise InputError(f"no result holds metric '{unknown[0]}'; there are {', '.join(sorted(known))}")
    shown = [row for results in runs for row in results.rows if metrics is None or row.metric in metrics]
    firsts = {row.value: row for row in reversed(shown)}  # a run may lack a metric, but the first that has it tells
    columns = [firsts[value] for value in dict.fromkeys(row.value for row in shown)]
    rows = [(results.name, [_score(results.find_row(column.value)) for column in columns]) for results in runs]
    rows += [("real", [column.truth for column in columns]), ("floor", [column.floor for column in columns])]
    heads = [row_heading(column) for column in columns]
    lines = [
        f"# {title}",
        "",
        summary_line(runs[0]),
        "",
        f"| run | {' | '.join(heads)} |",
        "|" + "---|" * (len(heads) + 1),
    ]
    lines += [f"| {name.replace('|', '')} | {' | '.join(map(format_estimate, cells))} |" for name, cells in rows]
    with atomic_write(output / "table.md") as temporary:
        temporary.write_text("\n".join([*lines, "", REPORT_NOTES, ""]), encoding="utf-8")
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
    """One value of two runs."""

    heading: str
    difference: PairedDifference
    corrected: float
    """p after Holm's correction over all values of the comparison."""


def compare_results(first: Path, second: Path) -> list[ComparedValue]:
    """Paired tests of every value that both runs have, from the records beside their results.json.

    Raises:
        InputError: another protocol, or records are gone.
    """
    one, other = load_comparable([first, second])
    protocol = BenchmarkProtocol.load(first.parent / PROTOCOL_FILE)
    if protocol.id != one.protocol:
        raise InputError(f"'{first.parent / PROTOCOL_FILE}' is not the protocol of '{first}'; evaluate again")
    shared = {row.metric for row in one.rows} & {row.metric for row in other.rows}
    found: list[tuple[ResultRow, PairedDifference]] = []
    for name in (name for name in METRICS if name in shared):
        by = _shared_measurement_key([first.parent, second.parent], name, one.clips[0])
        sides = [_load_records(path.parent, name, one.clips, by) for path in (first, second)]
        differences = compare_runs(METRICS[name].for_records(), *sides)
        found += [(row, differences[row.value]) for row in one.rows if row.metric == name]
    corrected = holm_correction([difference.p for _, difference in found])
    return [ComparedValue(row_heading(row), gap, p) for (row, gap), p in zip(found, corrected, strict=True)]


def _shared_measurement_key(folders: Sequence[Path], metric: str, clip: str) -> str:
    """What a clip's records of a metric were measured by in all of the folders.

    Raises:
        InputError: by different versions or weights.
    """
    found = {str(folder): stored_measurement_key(record_path(folder, metric, clip)) for folder in folders}
    known = {by for by in found.values() if by is not None}
    version = str(METRICS[metric].version)
    if len(known) > 1 or any(by.split(" ")[0] != version for by in known):
        raise InputError(
            f"'{metric}' was measured by other weights or another version in one of {', '.join(map(repr, found))}; "
            "evaluate again"
        )
    return known.pop() if known else version


def _load_records(folder: Path, metric: str, clips: Sequence[str], measurement_key: str) -> list[ClipMeasurements]:
    found = {clip: load_record(record_path(folder, metric, clip), measurement_key) for clip in clips}
    gone = [clip for clip, record in found.items() if record is None]
    if gone:
        raise InputError(
            f"{len(gone)} records of '{metric}' in '{folder}' are gone: {', '.join(gone[:MAX_LISTED_NAMES])}; evaluate "
            "again"
        )
    return [record for record in found.values() if record is not None]


def format_comparison(first: str, second: str, compared: Sequence[ComparedValue]) -> str:
    """As Markdown."""
    lines = [
        f"| measure | {first} | {second} | difference [{CONFIDENCE_LEVEL:g} %] | p | p, Holm | N | of the value itself "
        "|",
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
        lines.append(f"| {entry.heading} | {' | '.join(cells)} |")
    lines += [
        "",
        "Difference: second less first; of a measure that should meet the real videos' (→ real), of the distances to "
        "them, and in the last column of the measure itself. p: Wilcoxon's signed-rank test over clips.",
    ]
    return "\n".join(lines)


def _format_interval(value: float, low: float, high: float) -> str:
    return format_number(value) + (f" [{format_number(low)}, {format_number(high)}]" if math.isfinite(low) else "")

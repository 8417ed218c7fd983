"""Several results side by side: runs as rows, as an ablation is shown; and two of them compared clip by clip."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import written_whole
from fantasytalking.evaluation.benchmark.prediction_pairing import NAMES_SHOWN
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.records import Sides, load_record, record_measured_by, record_path
from fantasytalking.evaluation.registry import METRICS
from fantasytalking.evaluation.report.html import render
from fantasytalking.evaluation.report.markdown import NOTES, facts, heading, number, with_interval
from fantasytalking.evaluation.report.results import Results, Row
from fantasytalking.evaluation.report.statistics import LEVEL, Difference, Estimate, compare, holm
from fantasytalking.evaluation.runner import PROTOCOL


def load_alike(paths: Sequence[Path]) -> list[Results]:
    """Results of one protocol with a name each.

    Raises:
        InputError: a file is no results, protocols differ, or two runs have one name.
    """
    loaded = [Results.load(path) for path in paths]
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


def write_table(runs: Sequence[Results], output: Path, title: str, metrics: Sequence[str] | None = None) -> None:
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
    rows = [(results.name, [_score(results.row(column.value)) for column in columns]) for results in runs]
    rows += [("real", [column.truth for column in columns]), ("floor", [column.floor for column in columns])]
    heads = [heading(column) for column in columns]
    lines = [f"# {title}", "", facts(runs[0]), "", f"| run | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    lines += [f"| {name.replace('|', '')} | {' | '.join(map(with_interval, cells))} |" for name, cells in rows]
    with written_whole(output / "table.md") as temporary:
        temporary.write_text("\n".join([*lines, "", NOTES, ""]), encoding="utf-8")
    legend = [(heading(column), column.description) for column in columns]
    render(
        "table.html", output / "table.html", title=title, facts=facts(runs[0]), heads=heads, rows=rows, legend=legend
    )


def _score(row: Row | None) -> Estimate | None:
    return None if row is None else row.score


class Compared(NamedTuple):
    """One value of two runs."""

    heading: str
    difference: Difference
    corrected: float
    """p after Holm's correction over all values of the comparison."""


def compare_results(first: Path, second: Path) -> list[Compared]:
    """Paired tests of every value that both runs have, from the records beside their results.json.

    Raises:
        InputError: another protocol, or records are gone.
    """
    one, other = load_alike([first, second])
    protocol = Protocol.load(first.parent / PROTOCOL)
    if protocol.id != one.protocol:
        raise InputError(f"'{first.parent / PROTOCOL}' is not the protocol of '{first}'; evaluate again")
    shared = {row.metric for row in one.rows} & {row.metric for row in other.rows}
    found: list[tuple[Row, Difference]] = []
    for name in (name for name in METRICS if name in shared):
        by = _alike([first.parent, second.parent], name, one.clips[0])
        sides = [_records(path.parent, name, one.clips, by) for path in (first, second)]
        differences = compare(METRICS[name].for_records(), *sides)
        found += [(row, differences[row.value]) for row in one.rows if row.metric == name]
    corrected = holm([difference.p for _, difference in found])
    return [Compared(heading(row), gap, p) for (row, gap), p in zip(found, corrected, strict=True)]


def _alike(folders: Sequence[Path], metric: str, clip: str) -> str:
    """What a clip's records of a metric were measured by in all of the folders.

    Raises:
        InputError: by different versions or weights.
    """
    found = {str(folder): record_measured_by(record_path(folder, metric, clip)) for folder in folders}
    known = {by for by in found.values() if by is not None}
    version = str(METRICS[metric].version)
    if len(known) > 1 or any(by.split(" ")[0] != version for by in known):
        raise InputError(
            f"'{metric}' was measured by other weights or another version in one of {', '.join(map(repr, found))}; "
            "evaluate again"
        )
    return known.pop() if known else version


def _records(folder: Path, metric: str, clips: Sequence[str], by: str) -> list[Sides]:
    found = {clip: load_record(record_path(folder, metric, clip), by) for clip in clips}
    gone = [clip for clip, record in found.items() if record is None]
    if gone:
        raise InputError(
            f"{len(gone)} records of '{metric}' in '{folder}' are gone: {', '.join(gone[:NAMES_SHOWN])}; evaluate again"
        )
    return [record for record in found.values() if record is not None]


def comparison_table(first: str, second: str, compared: Sequence[Compared]) -> str:
    """As Markdown."""
    lines = [
        f"| measure | {first} | {second} | difference [{LEVEL:g} %] | p | p, Holm | N | of the value itself |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in compared:
        gap = entry.difference
        cells = [number(gap.first), number(gap.second), _with_interval(gap.difference, gap.low, gap.high)]
        cells += [number(gap.p), number(entry.corrected), str(gap.n)]
        cells.append("" if gap.own is None else _with_interval(*gap.own))
        lines.append(f"| {entry.heading} | {' | '.join(cells)} |")
    lines += [
        "",
        "Difference: second less first; of a measure that should meet the real videos' (→ real), of the distances to "
        "them, and in the last column of the measure itself. p: Wilcoxon's signed-rank test over clips.",
    ]
    return "\n".join(lines)


def _with_interval(value: float, low: float, high: float) -> str:
    return number(value) + (f" [{number(low)}, {number(high)}]" if math.isfinite(low) else "")

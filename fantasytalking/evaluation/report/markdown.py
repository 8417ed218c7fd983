"""One evaluation for people and for spreadsheets: results.csv and results.md."""

import csv
import math
from pathlib import Path

from fantasytalking.common.files import written_whole
from fantasytalking.evaluation.report.published_numbers import NOT_COMPARABLE, REPORTED
from fantasytalking.evaluation.report.results import Results, Row
from fantasytalking.evaluation.report.statistics import LEVEL, Estimate

ARROWS = {"higher": "↑", "lower": "↓", "reference": "→ real"}
NOTES = (
    f"Brackets: {LEVEL:g} % bootstrap intervals over clips. Real: the reference videos' own score. Floor: real "
    "against real (distances of sets: one half of the references against the other, at half of N; paired measures: "
    "even against odd frames of one reference; others: the second half of every reference). Other sound: with "
    "another clip's sound. N: clips that entered the score."
)


def number(value: float) -> str:
    """Four significant digits, or a dash."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def score_of(estimate: Estimate | None) -> str:
    """'0.9', or a dash."""
    return number(math.nan if estimate is None else estimate.score)


def interval_of(estimate: Estimate | None) -> str:
    """'[0.8, 1]', or nothing."""
    if estimate is None or not (math.isfinite(estimate.score) and math.isfinite(estimate.low)):
        return ""
    return f"[{number(estimate.low)}, {number(estimate.high)}]"


def with_interval(estimate: Estimate | None) -> str:
    """'0.9 [0.8, 1]', or a dash."""
    return f"{score_of(estimate)} {interval_of(estimate)}".strip()


def heading(row: Row) -> str:
    """'psnr (dB) ↑'."""
    return f"{row.value}{f' ({row.unit})' if row.unit else ''} {ARROWS[row.better]}"


def facts(results: Results) -> str:
    """What was evaluated, in a line."""
    return (
        f"benchmark {results.benchmark}, protocol {results.protocol}, {len(results.clips)} clips, "
        f"{results.width}x{results.height} at {results.fps:g} frames a second"
    )


def write_csv(results: Results, path: Path) -> None:
    """A line a value and clip, the summaries first with an empty clip; empty cells where nothing is known."""
    names = ["run", "protocol", "metric", "value", "unit", "better", "clip", "score", "low", "high", "n", "real"]

    def cell(value: float) -> str:
        return repr(value) if math.isfinite(value) else ""

    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(names)
        for row in results.rows:
            head = [_as_text(results.name), results.protocol, row.metric, row.value, row.unit, row.better]
            score, truth = row.score, row.truth.score if row.truth else math.nan
            table.writerow([*head, "", *map(cell, (score.score, score.low, score.high)), score.n, cell(truth)])
            for clip, value in row.per_clip.items():
                own = row.truth_per_clip.get(clip, math.nan)
                table.writerow([*head, clip, cell(value), "", "", "", cell(own)])


def _as_text(name: str) -> str:
    """A spreadsheet takes a cell that begins like this for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


def write_markdown(results: Results, path: Path) -> None:
    """The table of scores, what was skipped, and what papers report."""
    lines = [f"# {_cell(results.name)}", "", facts(results), ""]
    lines += ["| measure | score | real | floor | other sound | N |", "|---|---|---|---|---|---|"]
    for row in results.rows:
        sides = [with_interval(side) for side in (row.score, row.truth, row.floor, row.control)]
        lines.append(f"| {' | '.join([heading(row), *sides, str(row.score.n)])} |")
    lines += ["", NOTES, ""]
    if results.skipped:
        lines += ["Skipped, because weights are missing:", "", *(f"- {_cell(line)}" for line in results.skipped), ""]
    if reported := REPORTED.get(results.benchmark):
        columns = list(dict.fromkeys(name for entry in reported for name in entry.numbers))
        lines += ["## Reported elsewhere", "", NOT_COMPARABLE, "", f"| method | {' | '.join(columns)} | source |"]
        lines.append("|" + "---|" * (len(columns) + 2))
        for entry in reported:
            values = [str(entry.numbers.get(name, "")) for name in columns]
            lines.append(f"| {entry.method} | {' | '.join(values)} | {entry.source} |")
    with written_whole(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    """Without what Markdown would take for its own."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

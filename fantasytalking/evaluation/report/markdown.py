"""Results of an evaluation as Markdown and CSV: results.md and results.csv."""

import csv
import html
import math
import re
from pathlib import Path

from fantasytalking.common.files import atomic_write, atomic_write_text
from fantasytalking.common.text import printable
from fantasytalking.evaluation.report.published_numbers import COMPARABILITY_NOTE, PUBLISHED_RESULTS
from fantasytalking.evaluation.report.results import EvaluationResults, ResultRow
from fantasytalking.evaluation.report.statistics import CONFIDENCE_LEVEL, Estimate

FORMULA_STARTS = tuple("=+-@＝＋－＠")
DIRECTION_ARROWS = {"higher": "↑", "lower": "↓", "reference": "→ real"}
REPORT_NOTES = (
    f"Brackets: {CONFIDENCE_LEVEL:g} % bootstrap intervals over clips. Real: score of the references. Floor: real "
    "against real (distribution metrics: one half of the references against the other, at half of N; paired metrics: "
    "even against odd frames of a reference; others: the second half of each reference). Other audio: with the audio "
    "of another clip. N: number of clips in the score."
)


def format_number(value: float) -> str:
    """Returns four significant digits, or a dash."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def format_score(estimate: Estimate | None) -> str:
    """Returns the score as in '0.9', or a dash."""
    return format_number(math.nan if estimate is None else estimate.score)


def format_interval(estimate: Estimate | None) -> str:
    """Returns the interval as in '[0.8, 1]', or an empty string."""
    if estimate is None or not (math.isfinite(estimate.score) and math.isfinite(estimate.low)):
        return ""
    return f"[{format_number(estimate.low)}, {format_number(estimate.high)}]"


def format_estimate(estimate: Estimate | None) -> str:
    """Returns score and interval as in '0.9 [0.8, 1]', or a dash."""
    return f"{format_score(estimate)} {format_interval(estimate)}".strip()


def row_heading(row: ResultRow) -> str:
    """Returns the heading of a value as in 'psnr (dB) ↑'."""
    return f"{row.value}{f' ({row.unit})' if row.unit else ''} {DIRECTION_ARROWS[row.better]}"


def summary_line(results: EvaluationResults) -> str:
    """Returns benchmark, protocol, number of clips, size and frame rate in one line, for the terminal."""
    return (
        f"benchmark {printable(results.benchmark)}, protocol {printable(results.protocol)}, "
        f"{len(results.clips)} clips, "
        f"{results.width}x{results.height} at {results.fps:g} frames per second"
    )


def write_csv(results: EvaluationResults, path: Path) -> None:
    """Writes one line per value and clip, the summary first with an empty clip; unknown values are empty cells."""
    names = ["run", "protocol", "metric", "value", "unit", "better", "clip", "score", "low", "high", "n", "real"]

    def cell(value: float) -> str:
        return repr(value) if math.isfinite(value) else ""

    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(names)
        for row in results.rows:
            head = [results.name, results.protocol, row.metric, row.value, row.unit, row.better]
            head = [_escape_formula(text) for text in head]
            score, truth = row.score, row.truth.score if row.truth else math.nan
            table.writerow([*head, "", *map(cell, (score.score, score.low, score.high)), score.n, cell(truth)])
            for clip, value in row.per_clip.items():
                own = row.truth_per_clip.get(clip, math.nan)
                table.writerow([*head, _escape_formula(clip), cell(value), "", "", "", cell(own)])


def _escape_formula(name: str) -> str:
    """Returns a name as printable text that no spreadsheet interprets as a formula, half and full width."""
    text = printable(name)
    return f"'{text}" if text.lstrip()[:1] in FORMULA_STARTS else text


def write_markdown(results: EvaluationResults, path: Path) -> None:
    """Writes the table of scores, the skipped metrics, and published results."""
    lines = [f"# {markdown_text(results.name)}", "", markdown_text(summary_line(results)), ""]
    lines += ["| measure | score | real | floor | other audio | N |", "|---|---|---|---|---|---|"]
    for row in results.rows:
        sides = [format_estimate(side) for side in (row.score, row.truth, row.floor, row.control)]
        lines.append(f"| {' | '.join([markdown_text(row_heading(row)), *sides, str(row.score.n)])} |")
    lines += ["", REPORT_NOTES, ""]
    if results.skipped:
        lines += [
            "Skipped, because weights are missing:",
            "",
            *(f"- {markdown_text(line)}" for line in results.skipped),
            "",
        ]
    if published := PUBLISHED_RESULTS.get(results.benchmark):
        columns = list(dict.fromkeys(name for entry in published for name in entry.numbers))
        lines += ["## Published results", "", COMPARABILITY_NOTE, "", f"| method | {' | '.join(columns)} | source |"]
        lines.append("|" + "---|" * (len(columns) + 2))
        for entry in published:
            values = [str(entry.numbers.get(name, "")) for name in columns]
            lines.append(f"| {entry.method} | {' | '.join(values)} | {entry.source} |")
    atomic_write_text(path, "\n".join(lines).rstrip() + "\n")


def markdown_text(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line: no HTML, links, images, code or cells."""
    one_line = printable(" ".join(text.split()))
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(one_line, quote=False))

"""Self-contained HTML reports: no scripts, no links, all text escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fantasytalking.common.files import atomic_write_text
from fantasytalking.evaluation.report.frame_sheets import ClipSheets
from fantasytalking.evaluation.report.markdown import (
    REPORT_NOTES,
    format_interval,
    format_score,
    row_heading,
    summary_line,
)
from fantasytalking.evaluation.report.published_numbers import COMPARABILITY_NOTE, PUBLISHED_RESULTS
from fantasytalking.evaluation.report.results import EvaluationResults
from fantasytalking.evaluation.report.svg_plots import clip_plot, curve_plot

_TEMPLATE_FOLDER = Path(__file__).parent


def write_html_report(results: EvaluationResults, clip_sheets: ClipSheets | None, path: Path) -> None:
    """Writes the report of an evaluation as a single HTML file."""
    plots = [(row, Markup(clip_plot(row.per_clip, row.truth_per_clip, row.unit))) for row in results.rows]
    curves = [(curve, Markup(curve_plot(curve.per_clip, curve.truth_per_clip, curve.unit))) for curve in results.curves]
    published = PUBLISHED_RESULTS.get(results.benchmark, ())
    render_template(
        "report.html",
        path,
        results=results,
        facts=summary_line(results),
        plots=[(row, plot) for row, plot in plots if plot],
        curves=[(curve, plot) for curve, plot in curves if plot],
        sheets=clip_sheets,
        published=published,
        columns=list(dict.fromkeys(name for entry in published for name in entry.numbers)),
        not_comparable=COMPARABILITY_NOTE,
    )


def render_template(template: str, path: Path, **values: Any) -> None:
    """Renders a template of this folder and writes it atomically."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=format_score, interval=format_interval, heading=row_heading)
    text = environment.get_template(template).render(notes=REPORT_NOTES, **values)
    atomic_write_text(path, text)

"""Pages that stand alone: no script, no link, everything escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fantasytalking.common.files import written_whole
from fantasytalking.evaluation.report.frame_sheets import Sheets
from fantasytalking.evaluation.report.markdown import NOTES, facts, heading, interval_of, score_of
from fantasytalking.evaluation.report.published_numbers import NOT_COMPARABLE, REPORTED
from fantasytalking.evaluation.report.results import Results
from fantasytalking.evaluation.report.svg_plots import clip_plot, curve_plot

_FOLDER = Path(__file__).parent


def write_page(results: Results, sheets: Sheets | None, path: Path) -> None:
    """The report of one evaluation as one HTML file."""
    plots = [(row, Markup(clip_plot(row.per_clip, row.truth_per_clip, row.unit))) for row in results.rows]
    curves = [(curve, Markup(curve_plot(curve.per_clip, curve.truth_per_clip, curve.unit))) for curve in results.curves]
    reported = REPORTED.get(results.benchmark, ())
    render(
        "report.html",
        path,
        results=results,
        facts=facts(results),
        plots=[(row, plot) for row, plot in plots if plot],
        curves=[(curve, plot) for curve, plot in curves if plot],
        sheets=sheets,
        reported=reported,
        columns=list(dict.fromkeys(name for entry in reported for name in entry.numbers)),
        not_comparable=NOT_COMPARABLE,
    )


def render(template: str, path: Path, **values: Any) -> None:
    """Fills a template of this folder and writes it whole."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=score_of, interval=interval_of, heading=heading)
    text = environment.get_template(template).render(notes=NOTES, **values)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

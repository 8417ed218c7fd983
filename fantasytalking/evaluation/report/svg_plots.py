"""Small SVG plots for a self-contained page, with all names escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

PLOT_WIDTH, PLOT_HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 6, 8, 26


def clip_plot(scores: Mapping[str, float], reference: Mapping[str, float], unit: str) -> str:
    """Returns a plot of the score of each clip as a dot, ascending, with that of its reference as a ring."""
    known = sorted((score, clip) for clip, score in scores.items() if math.isfinite(score))
    rings = [reference[clip] for _, clip in known if math.isfinite(reference.get(clip, math.nan))]
    if not known:
        return ""
    low, high = _value_range([score for score, _ in known] + rings)
    step = (PLOT_WIDTH - _LEFT - _RIGHT) / len(known)
    marks = []
    for index, (score, clip) in enumerate(known):
        x = _LEFT + (index + 0.5) * step
        own = reference.get(clip, math.nan)
        if math.isfinite(own):
            title = f"{clip}, real: {own:.4g} {unit}"
            marks.append(_circle(x, _y_position(own, low, high), "ring", title))
        marks.append(_circle(x, _y_position(score, low, high), "dot", f"{clip}: {score:.4g} {unit}"))
    return _svg(
        _axis(low, high), *marks, _text(PLOT_WIDTH / 2, PLOT_HEIGHT - 8, f"{len(known)} clips, ascending", "middle")
    )


def curve_plot(curves: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]], unit: str) -> str:
    """Returns a plot over seconds: one thin line per clip, their mean thick, the mean of the references dashed."""
    drawn = {clip: points for clip, points in curves.items() if np.isfinite(points).any()}
    if not drawn:
        return ""
    seconds = max(len(points) for points in [*drawn.values(), *reference.values()])
    everything = [
        point for points in [*drawn.values(), *reference.values()] for point in points if math.isfinite(point)
    ]
    low, high = _value_range(everything)

    def line(points: Sequence[float], kind: str, title: str) -> str:
        step = (PLOT_WIDTH - _LEFT - _RIGHT) / max(1, seconds)
        coordinates = [
            f"{_LEFT + (second + 0.5) * step:.1f},{_y_position(point, low, high):.1f}"
            for second, point in enumerate(points)
            if math.isfinite(point)
        ]
        return f'<polyline class="{kind}" points="{" ".join(coordinates)}"><title>{escape(title)}</title></polyline>'

    lines = [line(points, "thin", clip) for clip, points in drawn.items()]
    lines.append(line(_mean_curve(list(drawn.values()), seconds), "mean", "mean over clips"))
    if reference:
        lines.append(line(_mean_curve(list(reference.values()), seconds), "real", "mean over the real clips"))
    label = _text(PLOT_WIDTH / 2, PLOT_HEIGHT - 8, f"seconds, 1 to {seconds}{f' ({unit})' if unit else ''}", "middle")
    return _svg(_axis(low, high), *lines, label)


def _mean_curve(curves: Sequence[Sequence[float]], seconds: int) -> list[float]:
    """Returns the mean of the known points of each second; NaN if there is none."""
    columns = [[points[second] for points in curves if len(points) > second] for second in range(seconds)]
    known = [[point for point in column if math.isfinite(point)] for column in columns]
    return [float(np.mean(column)) if column else math.nan for column in known]


def _value_range(values: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of an axis with a margin; never equal."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - room, high + room


def _y_position(value: float, low: float, high: float) -> float:
    return _TOP + (PLOT_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)


def _circle(x: float, y: float, kind: str, title: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis(low: float, high: float) -> str:
    """Returns grid lines at round numbers."""
    unit = 10 ** math.floor(math.log10((high - low) / 2))
    step = max(unit * factor for factor in (1, 2, 5) if unit * factor <= (high - low) / 2)
    parts = []
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = _y_position(index * step, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{PLOT_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{index * step:.5g}", "end"))
    return "".join(parts)


def _svg(*parts: str) -> str:
    return f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" role="img">{"".join(parts)}</svg>'

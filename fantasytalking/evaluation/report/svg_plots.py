"""Small drawings for a page that must stand alone: SVG as text, every name escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 6, 8, 26


def clip_plot(scores: Mapping[str, float], truth: Mapping[str, float], unit: str) -> str:
    """Every clip's score as a dot in ascending order, and the reference's own below or above it as a ring."""
    known = sorted((score, clip) for clip, score in scores.items() if math.isfinite(score))
    rings = [truth[clip] for _, clip in known if math.isfinite(truth.get(clip, math.nan))]
    if not known:
        return ""
    low, high = _span([score for score, _ in known] + rings)
    step = (WIDTH - _LEFT - _RIGHT) / len(known)
    marks = []
    for place, (score, clip) in enumerate(known):
        x = _LEFT + (place + 0.5) * step
        own = truth.get(clip, math.nan)
        if math.isfinite(own):
            title = f"{clip}, real: {own:.4g} {unit}"
            marks.append(_mark(x, _height(own, low, high), "ring", title))
        marks.append(_mark(x, _height(score, low, high), "dot", f"{clip}: {score:.4g} {unit}"))
    return _drawing(_axis(low, high), *marks, _words(WIDTH / 2, HEIGHT - 8, f"{len(known)} clips, ascending", "middle"))


def curve_plot(curves: Mapping[str, Sequence[float]], truth: Mapping[str, Sequence[float]], unit: str) -> str:
    """A thin line a clip, their mean as a thick one, the mean of the references dashed; in seconds."""
    drawn = {clip: points for clip, points in curves.items() if np.isfinite(points).any()}
    if not drawn:
        return ""
    seconds = max(len(points) for points in [*drawn.values(), *truth.values()])
    everything = [point for points in [*drawn.values(), *truth.values()] for point in points if math.isfinite(point)]
    low, high = _span(everything)

    def line(points: Sequence[float], kind: str, title: str) -> str:
        step = (WIDTH - _LEFT - _RIGHT) / max(1, seconds)
        places = [
            f"{_LEFT + (second + 0.5) * step:.1f},{_height(point, low, high):.1f}"
            for second, point in enumerate(points)
            if math.isfinite(point)
        ]
        return f'<polyline class="{kind}" points="{" ".join(places)}"><title>{escape(title)}</title></polyline>'

    lines = [line(points, "thin", clip) for clip, points in drawn.items()]
    lines.append(line(_mean(list(drawn.values()), seconds), "mean", "mean over clips"))
    if truth:
        lines.append(line(_mean(list(truth.values()), seconds), "real", "mean over the real clips"))
    words = _words(WIDTH / 2, HEIGHT - 8, f"seconds, 1 to {seconds}{f' ({unit})' if unit else ''}", "middle")
    return _drawing(_axis(low, high), *lines, words)


def _mean(curves: Sequence[Sequence[float]], seconds: int) -> list[float]:
    """Means of the known points of each second; NaN where there is none."""
    columns = [[points[second] for points in curves if len(points) > second] for second in range(seconds)]
    known = [[point for point in column if math.isfinite(point)] for column in columns]
    return [float(np.mean(column)) if column else math.nan for column in known]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Limits with a little room; never equal."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - room, high + room


def _height(value: float, low: float, high: float) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)


def _mark(x: float, y: float, kind: str, title: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(title)}</title></circle>'


def _words(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis(low: float, high: float) -> str:
    """Lines across at round numbers."""
    unit = 10 ** math.floor(math.log10((high - low) / 2))
    step = max(unit * share for share in (1, 2, 5) if unit * share <= (high - low) / 2)
    parts = []
    for place in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = _height(place * step, low, high)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_words(_LEFT - 6, y + 4, f"{place * step:.5g}", "end"))
    return "".join(parts)


def _drawing(*parts: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'

"""Writes the report of a prepared corpus: one HTML file without scripts and links; every name in it is escaped."""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fantasytalking import media
from fantasytalking.common.config import load_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.data.manifest import (
    MANIFEST_FILE,
    REJECTIONS_FILE,
    ClipRecord,
    Rejection,
    read_manifest,
    read_rejections,
)
from fantasytalking.data.prepare.clip_limits import FILTERS
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.corpus_writer import CONFIG_FILE, MEASURE_NAMES

LineT = TypeVar("LineT", ClipRecord, Rejection)

SHEET_CLIPS = 12
"""Most clips of a sheet."""
TILE_HEIGHT = 120
BINS = 30

_WIDTH, _HEIGHT, _MARGIN = 420, 90, 4
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Distribution:
    """A measured value over a corpus."""

    name: str
    kept: int
    rejected: int
    low: float
    median: float
    high: float
    limits: tuple[str, ...]
    plot: Markup
    """Histogram as SVG: kept above, rejected below the line; limits dashed."""


@dataclass(frozen=True)
class Tile:
    """A frame of a clip."""

    caption: str
    detail: str
    image: str
    """JPEG as a data URI; empty if the video cannot be read."""


def write_corpus_report(corpus: Path, videos: Path | None, path: Path) -> str:
    """Writes the report and returns a one-line summary.

    Args:
        corpus: folder of a prepared corpus.
        videos: the input folder of the preparation, of which frames are shown; None shows none.
        path: the HTML file.

    Raises:
        InputError: the corpus cannot be read, or the file cannot be written.
    """
    records, rejections = read_manifest(corpus / MANIFEST_FILE), read_rejections(corpus / REJECTIONS_FILE)
    limits = load_config(PreparationConfig, corpus / CONFIG_FILE).limits()
    groups: dict[str, list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        groups[rejection.reason.value].append(rejection)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("corpus_report.html").render(
        corpus=corpus.name,
        kept=len(records),
        rejected=len(rejections),
        hours=sum(record.duration for record in records) / 3600,
        videos=len({record.video for record in records}),
        counts=sorted(((name, len(found)) for name, found in groups.items()), key=lambda item: (-item[1], item[0])),
        distributions=_distributions(records, rejections, limits),
        sheets={} if videos is None else _sheets(records, groups, videos),
    )
    atomic_write_text(path, text)
    return f"{len(records)} clips kept, {len(rejections)} rejected: '{path}'"


def _distributions(
    records: Sequence[ClipRecord], rejections: Sequence[Rejection], limits: dict[str, float]
) -> list[Distribution]:
    found = []
    for name in sorted(MEASURE_NAMES):
        kept = [value for record in records if (value := getattr(record, name)) is not None]
        rejected = [line.measured[name] for line in rejections if name in line.measured]
        if not kept and not rejected:
            continue
        settings = [each.setting for each in FILTERS if each.measure == name]
        low, median, high = np.percentile(kept or rejected, [5, 50, 95]).tolist()
        plot = histogram_svg(kept, rejected, [limits[setting] for setting in settings])
        shown = tuple(f"{setting}={limits[setting]:g}" for setting in settings)
        found.append(Distribution(name, len(kept), len(rejected), low, median, high, shown, plot))
    return found


def histogram_svg(kept: Sequence[float], rejected: Sequence[float], limits: Sequence[float]) -> Markup:
    """Returns a histogram: kept values above the line, rejected ones below it, limits within the range dashed."""
    values = [*kept, *rejected]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    edges = np.linspace(low, high, BINS + 1)
    middle, step = _HEIGHT / 2, (_WIDTH - 2 * _MARGIN) / BINS
    parts = []
    for numbers, color, upward in ((kept, "#2b7a5b", True), (rejected, "#b3423a", False)):
        counts, _ = np.histogram(numbers, edges)
        for index, count in enumerate(counts.tolist()):
            if count:
                height = count / counts.max() * (middle - _MARGIN)
                top = middle - height if upward else middle
                parts.append(
                    f'<rect x="{_MARGIN + index * step:.1f}" y="{top:.1f}" width="{step - 1:.1f}" '
                    f'height="{height:.1f}" fill="{color}"/>'
                )
    for limit in limits:
        if low <= limit <= high:
            x = _MARGIN + (limit - low) / (high - low) * (_WIDTH - 2 * _MARGIN)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="#333" stroke-dasharray="4 3"/>'
            )
    label = f"{low:.4g} to {high:.4g}"
    body = "".join(parts)
    # Numbers only: nothing in it was read from a file as text.
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{label}">{body}<line x1="0" x2="{_WIDTH}" y1="{middle}" y2="{middle}" stroke="#999"/></svg>'
    )


def _sheets(records: Sequence[ClipRecord], groups: dict[str, list[Rejection]], videos: Path) -> dict[str, list[Tile]]:
    middle = records[0].duration / 2
    sheets = {"kept": [_tile(videos, record.video, record.start, middle, "") for record in _spread(records)]}
    for name, found in sorted(groups.items()):
        sheets[name] = [_tile(videos, line.video, line.start, middle, line.detail) for line in _spread(found)]
    return sheets


def _spread(lines: Sequence[LineT]) -> Sequence[LineT]:
    """Returns at most `SHEET_CLIPS` lines, evenly spaced."""
    return lines[:: max(1, -(-len(lines) // SHEET_CLIPS))]


def _tile(videos: Path, video: str, start: float, middle: float, detail: str) -> Tile:
    caption = f"{video} at {start:.2f} s"
    try:
        frame = media.read_frames_at(videos / video, [start + middle])[0]
    except InputError:
        return Tile(caption, detail, "")
    height, width = frame.shape[:2]
    size = (max(1, round(width * TILE_HEIGHT / height)), TILE_HEIGHT)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)).save(
        buffer, "JPEG", quality=_JPEG_QUALITY
    )
    return Tile(caption, detail, f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")

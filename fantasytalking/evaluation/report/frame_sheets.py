"""Contact sheets of the best and worst clips: frames of the prediction above those of the reference."""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fantasytalking.evaluation.benchmark.prediction_pairing import ClipPair
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.report.markdown import format_number, row_heading
from fantasytalking.evaluation.report.results import EvaluationResults, ResultRow
from fantasytalking.evaluation.runner import EvaluationRun
from fantasytalking.perception.contact_sheet import contact_sheet

SORT_VALUES = ("mouth_truth", "sync_c", "csim", "theval_lip_sync", "lmd", "aed_centred")
"""Clips are sorted by the first of these values that was measured, else by the first value with scores per clip."""
CLIPS_PER_END = 3
"""Largest number of worst clips and of best clips."""
CLIP_SHEET_FRAMES, CLIP_SHEET_TILE = 8, 120
JPEG_QUALITY = 82


class ClipSheet(NamedTuple):
    """The contact sheet of a clip."""

    title: str
    jpeg: str
    """JPEG file in base64."""


class ClipSheets(NamedTuple):
    """The best and the worst clips by a value."""

    sorted_by: str
    """Heading of the value by which they are sorted."""
    worst: list[ClipSheet]
    best: list[ClipSheet]


def render_clip_sheets(results: EvaluationResults, run: EvaluationRun) -> ClipSheets | None:
    """Renders the sheets of the worst and best clips; None if no value has scores per clip."""
    row = _sort_row(results)
    if row is None:
        return None
    known = [clip for clip, score in row.per_clip.items() if math.isfinite(score)]
    ordered = sorted(known, key=lambda clip: _badness(row, clip))
    count = min(CLIPS_PER_END, len(ordered) // 2) or 1
    pairs = {pair.clip.name: pair for pair in run.pairs}

    def render(clips: Sequence[str]) -> list[ClipSheet]:
        return [_render_sheet(row, pairs[clip], run) for clip in clips]

    return ClipSheets(row_heading(row), render(ordered[::-1][:count]), render(ordered[:count]))


def _sort_row(results: EvaluationResults) -> ResultRow | None:
    chosen = [row for value in SORT_VALUES if (row := results.find_row(value)) is not None]
    usable = [row for row in [*chosen, *results.rows] if any(map(math.isfinite, row.per_clip.values()))]
    return usable[0] if usable else None


def _badness(row: ResultRow, clip: str) -> float:
    score = row.per_clip[clip]
    if row.better == "reference":
        target = row.truth_per_clip.get(clip, math.nan)
        return abs(score - target) if math.isfinite(target) else abs(score)
    return score if row.better == "lower" else -score


def _render_sheet(row: ResultRow, pair: ClipPair, run: EvaluationRun) -> ClipSheet:
    protocol: BenchmarkProtocol = run.protocol
    video = protocol.prediction_clip(pair.clip, pair.prediction, run.references).frames
    real = protocol.reference_clip(pair.clip, run.references).frames
    indices = np.linspace(0, len(real) - 1, min(CLIP_SHEET_FRAMES, len(real))).round().astype(int)
    captions = [f"{index / protocol.fps:.2f} s" for index in indices] + ["real"] * len(indices)
    frames = [*video[indices], *real[indices]]
    sheet = contact_sheet(frames, captions=captions, columns=len(indices), tile=CLIP_SHEET_TILE)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=JPEG_QUALITY)
    title = f"{pair.clip.name}: {row.value} {format_number(row.per_clip[pair.clip.name])}"
    return ClipSheet(title, base64.b64encode(file.getvalue()).decode("ascii"))

"""The best and the worst clips as pictures: frames of the prediction above the same moments of the reference."""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fantasytalking.evaluation.benchmark.prediction_pairing import Pair
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.evaluation.report.markdown import heading, number
from fantasytalking.evaluation.report.results import Results, Row
from fantasytalking.evaluation.runner import Run
from fantasytalking.perception.contact_sheet import contact_sheet

FIRST_CHOICES = ("mouth_truth", "sync_c", "csim", "theval_lip_sync", "lmd", "aed_centred")
"""Clips are ordered by the first of these that was measured, else by the first value that a clip has alone."""
SHOWN = 3
FRAMES, TILE = 8, 120
QUALITY = 82


class Sheet(NamedTuple):
    """One clip in pictures."""

    title: str
    jpeg: str
    """Base64."""


class Sheets(NamedTuple):
    """The clips at both ends of an order."""

    order: str
    """What they are ordered by."""
    worst: list[Sheet]
    best: list[Sheet]


def make_sheets(results: Results, run: Run) -> Sheets | None:
    """Pictures of up to three clips at each end; None where no value has scores of single clips."""
    row = _leading(results)
    if row is None:
        return None
    known = [clip for clip, score in row.per_clip.items() if math.isfinite(score)]
    ordered = sorted(known, key=lambda clip: _badness(row, clip))
    count = min(SHOWN, len(ordered) // 2) or 1
    pairs = {pair.clip.name: pair for pair in run.pairs}

    def drawn(clips: Sequence[str]) -> list[Sheet]:
        return [_sheet(row, pairs[clip], run) for clip in clips]

    return Sheets(heading(row), drawn(ordered[::-1][:count]), drawn(ordered[:count]))


def _leading(results: Results) -> Row | None:
    chosen = [row for value in FIRST_CHOICES if (row := results.row(value)) is not None]
    usable = [row for row in [*chosen, *results.rows] if any(map(math.isfinite, row.per_clip.values()))]
    return usable[0] if usable else None


def _badness(row: Row, clip: str) -> float:
    score = row.per_clip[clip]
    if row.better == "reference":
        aim = row.truth_per_clip.get(clip, math.nan)
        return abs(score - aim) if math.isfinite(aim) else abs(score)
    return score if row.better == "lower" else -score


def _sheet(row: Row, pair: Pair, run: Run) -> Sheet:
    protocol: Protocol = run.protocol
    video = protocol.prediction(pair.clip, pair.prediction, run.references).frames
    real = protocol.reference(pair.clip, run.references).frames
    moments = np.linspace(0, len(real) - 1, min(FRAMES, len(real))).round().astype(int)
    captions = [f"{moment / protocol.fps:.2f} s" for moment in moments] + ["real"] * len(moments)
    frames = [*video[moments], *real[moments]]
    picture = contact_sheet(frames, captions=captions, columns=len(moments), tile=TILE)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    title = f"{pair.clip.name}: {row.value} {number(row.per_clip[pair.clip.name])}"
    return Sheet(title, base64.b64encode(file.getvalue()).decode("ascii"))

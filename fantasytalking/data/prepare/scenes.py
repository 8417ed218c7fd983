"""Detects scene cuts in a stream; memory does not grow with the length of the video.

A video is scanned in spans of one minute, so that the work on long videos can be distributed and resumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.errors import InputError

SPAN_SECONDS = 60.0
OVERLAP_SECONDS = 1.0
"""Overlap on both sides of a span in seconds, so that every cut is compared with its neighbors."""

_BLOCKS = 3
_LEVELS = 8
_NEIGHBORS = 6
_MEDIAN_RATIO = 3.0
"""Minimum ratio of a cut's difference to the median of its neighbors: fast motion and flicker differ all the time."""


@dataclass(frozen=True)
class SpanScan:
    """Result of the scan of one span; times are seconds from the video's first frame."""

    cuts: list[float]
    """Times of the first frames after cuts."""
    end: float
    """Time at which the display of the last frame ends; the end of the span if the video continues."""
    error: str
    """Reason why the video cannot be decoded after `end`; empty if it can."""


def span_starts(duration: float) -> list[float]:
    """Returns the starts, in seconds, of the spans of a video that declares `duration` seconds."""
    return [index * SPAN_SECONDS for index in range(max(1, int(np.ceil(duration / SPAN_SECONDS - 1e-9))))]


def scan_span(path: Path, start: float, threshold: float) -> SpanScan:
    """Decodes the span from `start` (seconds) on and detects cuts whose difference exceeds `threshold`."""
    begin, stop = max(0.0, start - OVERLAP_SECONDS), start + SPAN_SECONDS
    times: list[float] = []
    histograms: list[NDArray[np.float32]] = []
    error = ""
    try:
        for time, frame in media.iter_frames(path, fps=None, start=begin, duration=stop + OVERLAP_SECONDS - begin):
            times.append(time)
            histograms.append(color_histograms(frame))
    except InputError as broken:
        error = str(broken).replace(str(path), path.name)
    if not times:
        return SpanScan([], start, error)
    cuts = [times[index] for index in find_cuts(np.stack(histograms), threshold) if start <= times[index] < stop]
    shown = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    return SpanScan(cuts, min(stop, times[-1] + shown), error if times[-1] + shown < stop else "")


def color_histograms(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the (blocks, 3, levels) color histograms, as fractions, of 3 x 3 blocks of a frame (H, W, 3)."""
    step = max(1, min(frame.shape[:2]) // 72)
    small = frame[step // 2 :: step, step // 2 :: step]
    offsets = _bin_offsets(small.shape[0], small.shape[1])
    counts = np.bincount((offsets + small // (256 // _LEVELS)).ravel(), minlength=_BLOCKS**2 * 3 * _LEVELS)
    histograms = counts.reshape(-1, 3, _LEVELS).astype(np.float32)
    return histograms / np.maximum(histograms.sum(axis=-1, keepdims=True), 1)


@lru_cache(maxsize=8)
def _bin_offsets(height: int, width: int) -> NDArray[np.int32]:
    """Returns the (height, width, 3) index of the lowest bin of each pixel's block and color."""
    rows, columns = (np.arange(size) * _BLOCKS // size for size in (height, width))
    blocks = rows[:, None] * _BLOCKS + columns
    return ((blocks[:, :, None] * 3 + np.arange(3)) * _LEVELS).astype(np.int32)


def find_cuts(histograms: NDArray[np.float32], threshold: float) -> list[int]:
    """Returns the indices of the frames that start a new scene.

    The difference of two frames is half the L1 distance of their histograms, averaged over blocks and colors, in
    [0, 1]. A cut exceeds `threshold` and stands out from its neighbors.

    Args:
        histograms: (frames, blocks, 3, levels).
        threshold: minimum difference, [0, 1].
    """
    differences = np.abs(np.diff(histograms, axis=0)).sum(axis=-1).mean(axis=(1, 2)) / 2
    return [
        index + 1 for index in np.flatnonzero(differences > threshold) if _exceeds_neighbors(differences, int(index))
    ]


def _exceeds_neighbors(differences: NDArray[np.float32], index: int) -> bool:
    around = np.r_[differences[max(0, index - _NEIGHBORS) : index], differences[index + 1 : index + 1 + _NEIGHBORS]]
    return around.size == 0 or bool(differences[index] > _MEDIAN_RATIO * np.median(around))


def iter_scenes(scans: list[SpanScan], start: float, stop: float) -> Iterator[tuple[float, float]]:
    """Yields the scenes (start, end) between `start` and `stop`, from the scans of all spans in order."""
    end = min(stop, video_end(scans))
    borders = [start, *(cut for scan in scans for cut in scan.cuts if start < cut < end), end]
    for first, last in pairwise(borders):
        if last > first:
            yield first, last


def video_end(scans: list[SpanScan]) -> float:
    """Returns the end of the video in seconds: of the first span that breaks off, else of the last span."""
    return next((scan.end for scan in scans if scan.error), max(scan.end for scan in scans))

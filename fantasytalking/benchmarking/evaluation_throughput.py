"""Row evaluation: how many clips a core evaluates by all measures that need no weights; two processes against one."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from fantasytalking.benchmarking.parallel_processes import seconds_in_processes
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.registry import METRICS, build
from fantasytalking.evaluation.runner import measure_sides
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus

SENTENCE = "We count how many clips are judged in a minute, by every measure that needs no weights at all."
FRAMES, SIZE = 100, 128
ROUNDS = 3
PERCEPTION = "faces, body, silhouette"


def evaluation(frames: int = FRAMES, size: int = SIZE, rounds: int = ROUNDS) -> str:
    """Evaluates a clip of the portrait world against itself; gives Markdown.

    A clip counts with all that a run measures for it: the prediction, the reference's own score, the floor and the
    sound of another as a control.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _make_clip(Path(folder), size)
        seconds = _seconds_by_metric(path, frames)
        prepare = _Prepare(frames)
        one, two = (seconds_in_processes(prepare, path, processes, rounds) for processes in (1, 2))
    rows = sorted(seconds.items(), key=lambda entry: -entry[1])
    return "\n".join(
        [
            f"clips of {frames} frames of {size} x {size}, {len(seconds) - 1} metrics, median of {rounds} rounds, "
            "one core a process",
            "",
            "| side | clips a second | ratio |",
            "|---|---|---|",
            f"| one process | {1 / one:.3f} | 1 |",
            f"| two processes | {2 / two:.3f} | {2 * one / two:.2f} |",
            "",
            "| part | seconds a clip |",
            "|---|---|",
            *(f"| {name} | {value:.2f} |" for name, value in rows),
        ]
    )


def weight_free() -> dict[str, Metric]:
    """The metrics that need no weights."""
    return {name: build(name, None) for name, metric in METRICS.items() if not metric.needs}


def _make_clip(folder: Path, size: int) -> Path:
    for _ in make_corpus(CorpusPlan(range(1), [SENTENCE], size=size), folder):
        pass
    return next(folder.glob("id*/video.mp4"))


class _Prepare:
    """The work of one clip, as a process is given it."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __call__(self, path: Path) -> Callable[[], object]:
        cv2.setNumThreads(1)
        metrics = weight_free()
        return lambda: _evaluate(path, self.frames, metrics)


def _seconds_by_metric(path: Path, frames: int) -> dict[str, float]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    metrics = weight_free()
    _evaluate(path, frames, metrics)  # graphs are built and memory is warm
    return _evaluate(path, frames, metrics)


def _evaluate(path: Path, frames: int, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Everything of one clip from its file on; seconds of each metric, and of perception, which they share."""
    video, real = (Clip.from_file(path, count=frames) for _ in range(2))
    start, seconds = time.perf_counter(), {}
    for clip in (video, real):
        _ = clip.track, clip.body, clip.subject
    strange = np.roll(real.sound, len(real.sound) // 2)
    seconds[PERCEPTION] = time.perf_counter() - start
    for name, metric in metrics.items():
        start = time.perf_counter()
        measure_sides(metric, video, real, strange)
        seconds[name] = time.perf_counter() - start
    return seconds

"""Benchmark row evaluation: clips per second by all metrics without weights, with one and two processes."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from fantasytalking.benchmarking.parallel_processes import time_in_processes
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Metric
from fantasytalking.evaluation.registry import METRICS, build_metric
from fantasytalking.evaluation.runner import measure_sides
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus

EVALUATION_SENTENCE = "We count how many clips are judged in a minute, by every measure that needs no weights at all."
EVALUATION_FRAMES, EVALUATION_SIZE = 100, 128
EVALUATION_ROUNDS = 3
PERCEPTION_ROW = "faces, body, silhouette"


def benchmark_evaluation(
    frames: int = EVALUATION_FRAMES, size: int = EVALUATION_SIZE, rounds: int = EVALUATION_ROUNDS
) -> str:
    """Evaluates a clip of the portrait world against itself.

    All sides of a run are measured: the prediction, the reference, the floor, and the control with other audio.

    Args:
        frames: number of frames of the clip.
        size: height and width of the clip in pixels.
        rounds: number of rounds of which the median is taken.

    Returns:
        Markdown tables.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _make_clip(Path(folder), size)
        seconds = _seconds_by_metric(path, frames)
        prepare = _PrepareEvaluation(frames)
        one, two = (time_in_processes(prepare, path, processes, rounds) for processes in (1, 2))
    rows = sorted(seconds.items(), key=lambda entry: -entry[1])
    return "\n".join(
        [
            f"clips of {frames} frames of {size} x {size}, {len(seconds) - 1} metrics, median of {rounds} rounds, "
            "one core per process",
            "",
            "| variant | clips per second | ratio |",
            "|---|---|---|",
            f"| one process | {1 / one:.3f} | 1 |",
            f"| two processes | {2 / two:.3f} | {2 * one / two:.2f} |",
            "",
            "| part | seconds per clip |",
            "|---|---|",
            *(f"| {name} | {value:.2f} |" for name, value in rows),
        ]
    )


def weight_free_metrics() -> dict[str, Metric]:
    """Returns the metrics that need no weights."""
    return {name: build_metric(name, None) for name, metric in METRICS.items() if not metric.required_weights}


def _make_clip(folder: Path, size: int) -> Path:
    for _ in make_corpus(CorpusPlan(range(1), [EVALUATION_SENTENCE], size=size), folder):
        pass
    return next(folder.glob("id*/video.mp4"))


class _PrepareEvaluation:
    """Prepares the evaluation of a clip in a process."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __call__(self, path: Path) -> Callable[[], object]:
        cv2.setNumThreads(1)
        metrics = weight_free_metrics()
        return lambda: _evaluate(path, self.frames, metrics)


def _seconds_by_metric(path: Path, frames: int) -> dict[str, float]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    metrics = weight_free_metrics()
    _evaluate(path, frames, metrics)  # builds graphs and warms up memory
    return _evaluate(path, frames, metrics)


def _evaluate(path: Path, frames: int, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Evaluates a clip from its file; returns the seconds of each metric, and of perception, which they share."""
    video, real = (EvaluationClip.from_file(path, frame_count=frames) for _ in range(2))
    start, seconds = time.perf_counter(), {}
    for clip in (video, real):
        _ = clip.track, clip.body_track, clip.subject_masks
    other_audio = np.roll(real.audio, len(real.audio) // 2)
    seconds[PERCEPTION_ROW] = time.perf_counter() - start
    for name, metric in metrics.items():
        start = time.perf_counter()
        measure_sides(metric, video, real, other_audio)
        seconds[name] = time.perf_counter() - start
    return seconds

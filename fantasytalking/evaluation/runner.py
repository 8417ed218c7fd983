"""Measuring: every clip by every metric, by many processes, taken up again where it stopped."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fantasytalking.common.errors import InputError
from fantasytalking.common.resumable_tasks import Processes
from fantasytalking.evaluation.benchmark.prediction_pairing import NAMES_SHOWN, Pair
from fantasytalking.evaluation.benchmark.protocol import Protocol, ProtocolClip, check_reference
from fantasytalking.evaluation.evaluation_clip import SAMPLE_RATE, Clip
from fantasytalking.evaluation.metric import Against, Metric, Record, mean_over_people
from fantasytalking.evaluation.records import Side, Sides, load_record, record_path, save_record
from fantasytalking.evaluation.registry import build, measured_by

PROTOCOL = "protocol.json"
"""Beside results.json: what was evaluated."""


@dataclass(frozen=True)
class Run:
    """One folder of predictions against one protocol."""

    protocol: Protocol
    references: Path
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]
    weights: Path | None
    output: Path
    reuse: Path | None = None
    """Folder of an earlier run of the same protocol, whose measurements of the references are taken over."""

    def tasks(self) -> Iterator["Task"]:
        """One per clip that a metric has no record of yet. A clip's control is the sound of the next."""
        # Every task travels to a process: the list of all clips need not.
        light = replace(self, pairs=(), protocol=replace(self.protocol, clips=()))
        for place, pair in enumerate(self.pairs):
            other = self.pairs[(place + 1) % len(self.pairs)].clip
            left = tuple(name for name in self.metrics if not self._is_done(name, pair))
            if left:
                yield Task(light, pair, other if other != pair.clip else None, left)

    def _is_done(self, metric: str, pair: Pair) -> bool:
        return self._record(metric, pair) is not None

    def _record(self, metric: str, pair: Pair) -> Sides | None:
        known = record_path(self.output, metric, pair.clip.name)
        return load_record(known, measured_by(metric, self.weights), pair.sha256)

    def records(self, metric: str) -> list[Sides]:
        """Of all clips, in the protocol's order.

        Raises:
            InputError: one is gone.
        """
        found = [self._record(metric, pair) for pair in self.pairs]
        sides = [record for record in found if record is not None]
        if len(sides) != len(found):
            raise InputError(f"{len(found) - len(sides)} records of '{metric}' are gone; evaluate again")
        return sides


@dataclass(frozen=True)
class Task:
    """One clip and the metrics that are still to be measured on it."""

    run: Run
    pair: Pair
    other: ProtocolClip | None
    metrics: tuple[str, ...]


def measure_all(run: Run, processes: int, ranks: Processes) -> None:
    """Measures this rank's share of what is left, and waits for the others.

    Raises:
        InputError: clips could not be measured; how many, the first names and reasons. The others are kept.
    """
    share = run.pairs[ranks.process_index :: ranks.num_processes]
    tasks = [task for task in run.tasks() if task.pair in share]
    done = len(share) - len(tasks)
    bar = tqdm(
        desc="measuring", unit=" clips", initial=done, total=done + len(tasks), smoothing=0.1,
        disable=not ranks.is_main_process, dynamic_ncols=True,
    )  # fmt: skip
    failures = []
    with bar:
        for failure in _work_through(tasks, run, processes):
            bar.update()
            failures += [failure] if failure else []
    ranks.wait_for_everyone()
    if failures:
        shown = "; ".join(sorted(failures)[:NAMES_SHOWN])
        raise InputError(f"{len(failures)} of {len(run.pairs)} clips could not be measured: {shown}")


def _work_through(tasks: Sequence[Task], run: Run, processes: int) -> Iterator[str]:
    """Yields for every finished task what was wrong with it, or nothing."""
    if processes == 1 or len(tasks) < 2:
        metrics = {name: build(name, run.weights) for name in run.metrics} if tasks else {}
        for task in tasks:
            yield measure_clip(task, metrics)
        return
    context = multiprocessing.get_context("spawn")
    arguments = (run.metrics, run.weights)
    with ProcessPoolExecutor(min(processes, len(tasks)), context, _start, arguments) as pool:
        running = [pool.submit(_measure_in_worker, task) for task in tasks]
        try:
            for finished in as_completed(running):
                yield finished.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker_metrics: dict[str, Metric] = {}


def _start(names: Sequence[str], weights: Path | None) -> None:
    """One thread a process: the processes share the cores."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker_metrics.update({name: build(name, weights) for name in names})


def _measure_in_worker(task: Task) -> str:
    return measure_clip(task, _worker_metrics)


def measure_clip(task: Task, metrics: dict[str, Metric]) -> str:
    """Writes the records of one clip. Gives what was wrong with it in one line, or nothing; others' errors name it."""
    run, pair = task.run, task.pair
    name = pair.clip.name
    try:
        check_reference(pair.clip, run.references)
        portrait, driver = (find(pair.clip, run.references) for find in (run.protocol.portrait, run.protocol.driver))
        # Those who drive are read and looked at once, also where they stand for the reference.
        alone = None if run.protocol.answered else driver
        real = alone or run.protocol.reference(pair.clip, run.references)
        video = run.protocol.prediction(pair.clip, pair.prediction, run.references)
        hearing = task.other is not None and any(metrics[metric].hears for metric in task.metrics)
        strange = _sound_of(task, task.other, len(real.frames) / real.fps) if hearing and task.other else None
        for metric in task.metrics:
            by = measured_by(metric, run.weights)
            known = None if run.reuse is None else load_record(record_path(run.reuse, metric, name), by)
            sides = measure_sides(metrics[metric], video, real, strange, known, portrait=portrait, driver=driver)
            save_record(record_path(run.output, metric, name), sides, by, pair.sha256)
    except InputError as error:
        return f"'{name}': {error}"
    except Exception as error:
        error.add_note(f"while measuring clip '{name}'")
        raise
    return ""


def _sound_of(task: Task, other: ProtocolClip, seconds: float) -> NDArray[np.float32]:
    """Another clip's sound, repeated until it is long enough."""
    clip = task.run.protocol.reference(other, task.run.references)
    return np.resize(clip.sound_alone(), round(seconds * SAMPLE_RATE))


def measure_sides(
    metric: Metric,
    video: Clip,
    real: Clip,
    strange: NDArray[np.float32] | None,
    known: Sides | None = None,
    *,
    portrait: Clip | None = None,
    driver: Clip | None = None,
) -> Sides:
    """Everything that a metric measures on one clip.

    Args:
        strange: (S,) sound of somebody else; None: there is nobody else, and no control.
        known: of the same reference, measured before; its truth and floor are taken over.
        portrait: the picture that the video is made from; None: the reference's first frame.
        driver: those who drive the people in it; None: the reference.
    """
    aims = {Against.REFERENCE: real, Against.PORTRAIT: portrait or real, Against.DRIVER: driver or real}
    aim = aims[metric.against] if metric.paired else None
    sides = {Side.PREDICTION: _measure(metric, video, aim)}
    if metric.hears and strange is not None:
        sides[Side.CONTROL] = _measure(metric, video.with_sound(strange), aim)
    if not metric.distribution:
        of_reference: Sides = {side: known[side] for side in (Side.TRUTH, Side.FLOOR) if known and side in known}
        sides |= of_reference or _measure_reference(metric, real, aim)
    return sides


def _measure(metric: Metric, video: Clip, aim: Clip | None) -> Record:
    """One record, of a metric of faces the mean over everyone in the video."""
    if not metric.per_person or len(video.people) == 1:
        return metric.measure(video, aim)
    aims = [None] * len(video.people) if aim is None else aim.people
    return mean_over_people([metric.measure(one, other) for one, other in zip(video.people, aims, strict=True)])


def _measure_reference(metric: Metric, real: Clip, aim: Clip | None) -> Sides:
    """What does not depend on the prediction."""
    count = len(real.frames)
    if aim is None:
        return {
            Side.TRUTH: _measure(metric, real, None),
            Side.FLOOR: _measure(metric, real.part(slice(count // 2, None)), None),
        }
    sides = {} if aim is real else {Side.TRUTH: _measure(metric, real, aim)}
    if count < 2:
        return sides
    halves = real.part(slice(1, None, 2)), real.part(slice(0, count - count % 2, 2))
    return sides | {Side.FLOOR: _measure(metric, *halves)}

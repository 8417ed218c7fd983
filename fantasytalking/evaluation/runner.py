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
from fantasytalking.common.resumable_tasks import ProcessState
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES, ClipPair
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip, verify_references
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, Target, mean_over_people
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide, load_record, record_path, save_record
from fantasytalking.evaluation.registry import build_metric, measurement_key

PROTOCOL_FILE = "protocol.json"
"""Beside results.json: what was evaluated."""


@dataclass(frozen=True)
class EvaluationRun:
    """One folder of predictions against one protocol."""

    protocol: BenchmarkProtocol
    references: Path
    pairs: tuple[ClipPair, ...]
    metrics: tuple[str, ...]
    weights: Path | None
    output: Path
    reuse: Path | None = None
    """Folder of an earlier run of the same protocol, whose measurements of the references are taken over."""

    def pending_tasks(self) -> Iterator["MeasurementTask"]:
        """One per clip that a metric has no record of yet. A clip's control is the sound of the next."""
        # Every task travels to a process: the list of all clips need not.
        light = replace(self, pairs=(), protocol=replace(self.protocol, clips=()))
        for place, pair in enumerate(self.pairs):
            other = self.pairs[(place + 1) % len(self.pairs)].clip
            left = tuple(name for name in self.metrics if not self._is_done(name, pair))
            if left:
                yield MeasurementTask(light, pair, other if other != pair.clip else None, left)

    def _is_done(self, metric: str, pair: ClipPair) -> bool:
        return self._load_measurement(metric, pair) is not None

    def _load_measurement(self, metric: str, pair: ClipPair) -> ClipMeasurements | None:
        known = record_path(self.output, metric, pair.clip.name)
        return load_record(known, measurement_key(metric, self.weights), pair.prediction_sha256)

    def load_measurements(self, metric: str) -> list[ClipMeasurements]:
        """Of all clips, in the protocol's order.

        Raises:
            InputError: one is gone.
        """
        found = [self._load_measurement(metric, pair) for pair in self.pairs]
        sides = [record for record in found if record is not None]
        if len(sides) != len(found):
            raise InputError(f"{len(found) - len(sides)} records of '{metric}' are gone; evaluate again")
        return sides


@dataclass(frozen=True)
class MeasurementTask:
    """One clip and the metrics that are still to be measured on it."""

    run: EvaluationRun
    pair: ClipPair
    control_clip: ProtocolClip | None
    metrics: tuple[str, ...]


def measure_run(run: EvaluationRun, processes: int, process_state: ProcessState) -> None:
    """Measures this rank's share of what is left, and waits for the others.

    Raises:
        InputError: clips could not be measured; how many, the first names and reasons. The others are kept.
    """
    share = run.pairs[process_state.process_index :: process_state.num_processes]
    tasks = [task for task in run.pending_tasks() if task.pair in share]
    done = len(share) - len(tasks)
    bar = tqdm(
        desc="measuring",
        unit=" clips",
        initial=done,
        total=done + len(tasks),
        smoothing=0.1,
        disable=not process_state.is_main_process,
        dynamic_ncols=True,
    )
    failures = []
    with bar:
        for failure in _run_tasks(tasks, run, processes):
            bar.update()
            failures += [failure] if failure else []
    process_state.wait_for_everyone()
    if failures:
        shown = "; ".join(sorted(failures)[:MAX_LISTED_NAMES])
        raise InputError(f"{len(failures)} of {len(run.pairs)} clips could not be measured: {shown}")


def _run_tasks(tasks: Sequence[MeasurementTask], run: EvaluationRun, processes: int) -> Iterator[str]:
    """Yields for every finished task what was wrong with it, or nothing."""
    if processes == 1 or len(tasks) < 2:
        metrics = {name: build_metric(name, run.weights) for name in run.metrics} if tasks else {}
        for task in tasks:
            yield measure_clip(task, metrics)
        return
    context = multiprocessing.get_context("spawn")
    arguments = (run.metrics, run.weights)
    with ProcessPoolExecutor(min(processes, len(tasks)), context, _init_worker, arguments) as pool:
        running = [pool.submit(_measure_in_worker, task) for task in tasks]
        try:
            for finished in as_completed(running):
                yield finished.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker_metrics: dict[str, Metric] = {}


def _init_worker(names: Sequence[str], weights: Path | None) -> None:
    """One thread a process: the processes share the cores."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker_metrics.update({name: build_metric(name, weights) for name in names})


def _measure_in_worker(task: MeasurementTask) -> str:
    return measure_clip(task, _worker_metrics)


def measure_clip(task: MeasurementTask, metrics: dict[str, Metric]) -> str:
    """Writes the records of one clip. Gives what was wrong with it in one line, or nothing; others' errors name it."""
    run, pair = task.run, task.pair
    name = pair.clip.name
    try:
        verify_references(pair.clip, run.references)
        portrait, driver = (
            find(pair.clip, run.references) for find in (run.protocol.portrait_clip, run.protocol.driver_clip)
        )
        # Those who drive are read and looked at once, also where they stand for the reference.
        alone = None if run.protocol.answered else driver
        real = alone or run.protocol.reference_clip(pair.clip, run.references)
        video = run.protocol.prediction_clip(pair.clip, pair.prediction, run.references)
        hearing = task.control_clip is not None and any(metrics[metric].uses_audio for metric in task.metrics)
        strange = (
            _control_audio(task, task.control_clip, len(real.frames) / real.fps)
            if hearing and task.control_clip
            else None
        )
        for metric in task.metrics:
            by = measurement_key(metric, run.weights)
            known = None if run.reuse is None else load_record(record_path(run.reuse, metric, name), by)
            sides = measure_sides(metrics[metric], video, real, strange, known, portrait=portrait, driver=driver)
            save_record(record_path(run.output, metric, name), sides, by, pair.prediction_sha256)
    except InputError as error:
        return f"'{name}': {error}"
    except Exception as error:
        error.add_note(f"while measuring clip '{name}'")
        raise
    return ""


def _control_audio(task: MeasurementTask, control_clip: ProtocolClip, seconds: float) -> NDArray[np.float32]:
    """Another clip's sound, repeated until it is long enough."""
    clip = task.run.protocol.reference_clip(control_clip, task.run.references)
    return np.resize(clip.full_audio(), round(seconds * CLIP_SAMPLE_RATE))


def measure_sides(
    metric: Metric,
    video: EvaluationClip,
    reference: EvaluationClip,
    mismatched_audio: NDArray[np.float32] | None,
    cached: ClipMeasurements | None = None,
    *,
    portrait: EvaluationClip | None = None,
    driver: EvaluationClip | None = None,
) -> ClipMeasurements:
    """Everything that a metric measures on one clip.

    Args:
        mismatched_audio: (S,) sound of somebody else; None: there is nobody else, and no control.
        cached: of the same reference, measured before; its truth and floor are taken over.
        portrait: the picture that the video is made from; None: the reference's first frame.
        driver: those who drive the people in it; None: the reference.
    """
    aims = {Target.REFERENCE: reference, Target.PORTRAIT: portrait or reference, Target.DRIVER: driver or reference}
    aim = aims[metric.target] if metric.paired else None
    sides = {MeasurementSide.PREDICTION: _measure_people(metric, video, aim)}
    if metric.uses_audio and mismatched_audio is not None:
        sides[MeasurementSide.CONTROL] = _measure_people(metric, video.with_audio(mismatched_audio), aim)
    if not metric.distribution:
        of_reference: ClipMeasurements = {
            side: cached[side]
            for side in (MeasurementSide.REFERENCE, MeasurementSide.FLOOR)
            if cached and side in cached
        }
        sides |= of_reference or _measure_reference(metric, reference, aim)
    return sides


def _measure_people(metric: Metric, video: EvaluationClip, target: EvaluationClip | None) -> Measurement:
    """One record, of a metric of faces the mean over everyone in the video."""
    if not metric.per_person or len(video.people) == 1:
        return metric.measure(video, target)
    aims = [None] * len(video.people) if target is None else target.people
    return mean_over_people([metric.measure(one, other) for one, other in zip(video.people, aims, strict=True)])


def _measure_reference(metric: Metric, reference: EvaluationClip, target: EvaluationClip | None) -> ClipMeasurements:
    """What does not depend on the prediction."""
    count = len(reference.frames)
    if target is None:
        return {
            MeasurementSide.REFERENCE: _measure_people(metric, reference, None),
            MeasurementSide.FLOOR: _measure_people(metric, reference.slice_frames(slice(count // 2, None)), None),
        }
    sides = {} if target is reference else {MeasurementSide.REFERENCE: _measure_people(metric, reference, target)}
    if count < 2:
        return sides
    halves = reference.slice_frames(slice(1, None, 2)), reference.slice_frames(slice(0, count - count % 2, 2))
    return sides | {MeasurementSide.FLOOR: _measure_people(metric, *halves)}

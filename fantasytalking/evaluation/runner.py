"""Runs all metrics on all clips in several processes, and resumes an interrupted run."""

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.resumable_tasks import ProcessState
from fantasytalking.common.worker_processes import worker_pool
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES, ClipPair
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, ProtocolClip, verify_references
from fantasytalking.evaluation.evaluation_clip import CLIP_SAMPLE_RATE, EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, Target, mean_over_people
from fantasytalking.evaluation.records import ClipMeasurements, MeasurementSide, load_record, record_path, save_record
from fantasytalking.evaluation.registry import build_metric, measurement_key

PROTOCOL_FILE = "protocol.json"
"""File of the protocol, beside results.json."""


@dataclass(frozen=True)
class EvaluationRun:
    """One folder of predictions evaluated under one protocol."""

    protocol: BenchmarkProtocol
    references: Path
    pairs: tuple[ClipPair, ...]
    metrics: tuple[str, ...]
    weights: Path | None
    output: Path
    reuse: Path | None = None
    """Output folder of an earlier run of the same protocol, whose measurements of the references are reused."""

    def pending_tasks(self) -> Iterator["MeasurementTask"]:
        """Yields a task for each clip with missing records. The control of a clip is the audio of the next clip."""
        # Each task is sent to a process, without the list of all clips.
        light = replace(self, pairs=(), protocol=replace(self.protocol, clips=()))
        for index, pair in enumerate(self.pairs):
            other = self.pairs[(index + 1) % len(self.pairs)].clip
            missing = tuple(name for name in self.metrics if not self._is_done(name, pair))
            if missing:
                yield MeasurementTask(light, pair, other if other != pair.clip else None, missing)

    def _is_done(self, metric: str, pair: ClipPair) -> bool:
        return self._load_measurement(metric, pair) is not None

    def _load_measurement(self, metric: str, pair: ClipPair) -> ClipMeasurements | None:
        known = record_path(self.output, metric, pair.clip.name)
        return load_record(known, measurement_key(metric, self.weights), pair.prediction_sha256)

    def load_measurements(self, metric: str) -> list[ClipMeasurements]:
        """Loads the measurements of all clips, in the protocol's order.

        Raises:
            InputError: a record is missing.
        """
        found = [self._load_measurement(metric, pair) for pair in self.pairs]
        sides = [record for record in found if record is not None]
        if len(sides) != len(found):
            missing = len(found) - len(sides)
            raise InputError(
                f"{missing} of {len(found)} records of metric '{metric}' are missing; evaluate again",
                code=ErrorCode.missing_file,
                field=metric,
                value=missing,
            )
        return sides


@dataclass(frozen=True)
class MeasurementTask:
    """A clip, and the metrics to measure on it."""

    run: EvaluationRun
    pair: ClipPair
    control_clip: ProtocolClip | None
    metrics: tuple[str, ...]


def measure_run(run: EvaluationRun, num_processes: int, process_state: ProcessState) -> None:
    """Measures the pending clips of this rank and waits for the other ranks.

    Args:
        run: what to measure.
        num_processes: number of processes of this rank.
        process_state: the ranks, between which the clips are divided.

    Raises:
        InputError: clips could not be measured; the message has their number, the first names and reasons. Records of
            the other clips are kept.
    """
    rank_pairs = run.pairs[process_state.process_index :: process_state.num_processes]
    tasks = [task for task in run.pending_tasks() if task.pair in rank_pairs]
    done = len(rank_pairs) - len(tasks)
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
        for failure in _run_tasks(tasks, run, num_processes):
            bar.update()
            failures += [failure] if failure else []
    process_state.wait_for_everyone()
    if failures:
        shown = "; ".join(sorted(failures)[:MAX_LISTED_NAMES])
        raise InputError(
            f"{len(failures)} of {len(run.pairs)} clips could not be measured: {shown}",
            code=ErrorCode.unreadable_media,
            field="clips",
            value=len(failures),
        )


def _run_tasks(tasks: Sequence[MeasurementTask], run: EvaluationRun, num_processes: int) -> Iterator[str]:
    """Yields the error message of each finished task; empty if it succeeded."""
    if num_processes == 1 or len(tasks) < 2:
        metrics = {name: build_metric(name, run.weights) for name in run.metrics} if tasks else {}
        for task in tasks:
            yield measure_clip(task, metrics)
        return
    with worker_pool(min(num_processes, len(tasks)), __name__, _init_worker, (run.metrics, run.weights)) as pool:
        running = [pool.submit(_measure_in_worker, task) for task in tasks]
        try:
            for finished in as_completed(running):
                yield finished.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker_metrics: dict[str, Metric] = {}


def _init_worker(names: Sequence[str], weights: Path | None) -> None:
    """Builds the metrics of a process, with one thread: the processes share the cores."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _worker_metrics.update({name: build_metric(name, weights) for name in names})


def _measure_in_worker(task: MeasurementTask) -> str:
    return measure_clip(task, _worker_metrics)


def measure_clip(task: MeasurementTask, metrics: dict[str, Metric]) -> str:
    """Writes the records of a clip.

    Returns:
        the message of an `InputError` with the name of the clip; empty if there is none. Other errors are raised with a
        note of the name.
    """
    run, pair = task.run, task.pair
    name = pair.clip.name
    try:
        verify_references(pair.clip, run.references)
        portrait = run.protocol.portrait_clip(pair.clip, run.references)
        driver = run.protocol.driver_clip(pair.clip, run.references)
        # One clip object for the drivers, also where they are the reference: perception runs once.
        driver_as_reference = None if run.protocol.answered else driver
        reference = driver_as_reference or run.protocol.reference_clip(pair.clip, run.references)
        video = run.protocol.prediction_clip(pair.clip, pair.prediction, run.references)
        control_audio = None
        if task.control_clip is not None and any(metrics[metric].uses_audio for metric in task.metrics):
            control_audio = _control_audio(task, task.control_clip, len(reference.frames) / reference.fps)
        for metric in task.metrics:
            key = measurement_key(metric, run.weights)
            cached = None if run.reuse is None else load_record(record_path(run.reuse, metric, name), key)
            sides = measure_sides(
                metrics[metric], video, reference, control_audio, cached, portrait=portrait, driver=driver
            )
            save_record(record_path(run.output, metric, name), sides, key, pair.prediction_sha256)
    except InputError as error:
        return f"'{name}': {error}"
    except Exception as error:
        error.add_note(f"while measuring clip '{name}'")
        raise
    return ""


def _control_audio(task: MeasurementTask, control_clip: ProtocolClip, seconds: float) -> NDArray[np.float32]:
    """Returns the audio of another clip, repeated to a length of `seconds`."""
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
    """Returns all measurements of a metric on one clip.

    Args:
        metric: metric to measure.
        video: the prediction.
        reference: the reference.
        mismatched_audio: (S,) audio of another clip; None = no control.
        cached: earlier measurements with the same reference, whose reference side and floor are reused.
        portrait: the image that the video is generated from; None = the reference's first frame.
        driver: the driving videos; None = the reference.
    """
    targets = {Target.REFERENCE: reference, Target.PORTRAIT: portrait or reference, Target.DRIVER: driver or reference}
    target = targets[metric.target] if metric.paired else None
    sides = {MeasurementSide.PREDICTION: _measure_people(metric, video, target)}
    if metric.uses_audio and mismatched_audio is not None:
        sides[MeasurementSide.CONTROL] = _measure_people(metric, video.with_audio(mismatched_audio), target)
    if not metric.distribution:
        of_reference: ClipMeasurements = {
            side: cached[side]
            for side in (MeasurementSide.REFERENCE, MeasurementSide.FLOOR)
            if cached and side in cached
        }
        sides |= of_reference or _measure_reference(metric, reference, target)
    return sides


def _measure_people(metric: Metric, video: EvaluationClip, target: EvaluationClip | None) -> Measurement:
    """Measures a video; a metric of one face is averaged over all people in the video."""
    if not metric.per_person or len(video.people) == 1:
        return metric.measure(video, target)
    targets = [None] * len(video.people) if target is None else target.people
    return mean_over_people([metric.measure(one, other) for one, other in zip(video.people, targets, strict=True)])


def _measure_reference(metric: Metric, reference: EvaluationClip, target: EvaluationClip | None) -> ClipMeasurements:
    """Returns the measurements that do not depend on the prediction."""
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

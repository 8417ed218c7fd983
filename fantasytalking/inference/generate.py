"""Generates a video file from image, audio and driving video files."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking import media
from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.inference.console import notify, notify_warning
from fantasytalking.inference.job import GenerationJob, checked_output_paths, start_record
from fantasytalking.inference.model_sources import ResolvedModel, deterministic_algorithms
from fantasytalking.inference.video_outputs import (
    OUTPUT_SAMPLE_RATE,
    contact_sheet_indices,
    face_fields,
    write_video_contact_sheet,
)
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline, GenerationPlan, Speakers
from fantasytalking.pipeline.inputs import load_driving_inputs
from fantasytalking.pipeline.speakers import mix_audio

ProgressCallback = Callable[[str, float], object]


def generate_video(
    job: GenerationJob,
    model: ResolvedModel,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    on_progress: ProgressCallback = lambda phase, fraction: None,
    on_warning: Callable[[str], object] = notify_warning,
) -> str:
    """Generates the video, its record (.json) and, if requested, its contact sheet (.sheet.png), all of them or none.

    Args:
        open_pipeline: returns the pipeline of the job's model; called once everything else has been checked.
        on_warning: called with a line about a portrait that the model cannot animate well.
        on_progress: called with the phase ("denoise", "decode") and the fraction of it that is done.

    Returns:
        one line: path, duration, seconds of work per second of video.

    Raises:
        InputError: an input or a control cannot be used.
    """
    paths = checked_output_paths(job)
    plan = job.plan(model.facts)
    record = start_record(job, model)
    inputs = _read_inputs(job, model, plan)
    if job.config.notice:
        notify(f"note: {job.config.notice}")
    if framing := inputs.speakers.portrait.framing_warning(model.facts.face_ranges, job.config.resize_mode):
        on_warning(framing)
    with ExitStack() as outputs, deterministic_algorithms():
        # Opened before the work, so that a path that cannot be written to is reported at once.
        video, text, *sheets = (outputs.enter_context(atomic_write(path)) for path in paths)
        pipe = open_pipeline()
        start = time.perf_counter()
        output = _run_pipeline(pipe, job, inputs, on_progress)
        frames = _FrameTee(
            pipe.iterate_frames(output.frames, output.num_frames), output.num_frames, bool(sheets), on_progress
        )
        media.write_video(video, frames, fps=output.fps, audio=inputs.audio, sample_rate=OUTPUT_SAMPLE_RATE)
        elapsed = time.perf_counter() - start
        for sheet in sheets:
            write_video_contact_sheet(sheet, frames.kept_frames, output.fps)
        record = replace(record, video_sha256=hash_file(video))
        result = _result_fields(inputs, output, elapsed, pipe.motion_normalizer)
        record.save(text, result)
    return _summary(job, result, record.video_sha256)


class _Inputs(NamedTuple):
    """What the video is generated from."""

    speakers: Speakers
    audio: NDArray[np.float32] | None
    """At 48 kHz, for the file; None: nobody speaks."""


def _read_inputs(job: GenerationJob, model: ResolvedModel, plan: GenerationPlan) -> _Inputs:
    max_seconds = job.config.max_seconds
    waveforms, output_waveforms = (
        tuple(media.read_audio(path, sample_rate=rate, duration=max_seconds) for path in job.audio_paths)
        for rate in (AUDIO_SAMPLE_RATE, OUTPUT_SAMPLE_RATE)
    )
    portrait = job.config.portrait_options(model.facts.face_ranges).prepare(job.image, job.num_faces)
    speakers = Speakers(portrait, waveforms)
    longest = max((len(one) / AUDIO_SAMPLE_RATE for one in waveforms), default=max_seconds)
    driving = load_driving_inputs(job.driving_videos, model.expression_encoder, plan.fps, longest)
    speakers = replace(speakers, driving_expressions=driving)
    speakers.timeline(plan.fps, plan.geometry.temporal_stride)
    return _Inputs(speakers, mix_audio(output_waveforms) if output_waveforms else None)


def _run_pipeline(
    pipe: FantasyTalkingPipeline, job: GenerationJob, inputs: _Inputs, on_progress: ProgressCallback
) -> FantasyTalkingOutput:
    def report(_: FantasyTalkingPipeline, step: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        on_progress("denoise", (step + 1) / len(pipe.scheduler.timesteps))
        return values

    return pipe(
        inputs.speakers.portrait,
        inputs.speakers.waveforms,
        controls=job.config.controls(),
        driving_video=inputs.speakers.driving_expressions,
        generator=torch.Generator().manual_seed(job.config.seed),
        output_type="latent",
        callback_on_step_end=report,
    )


def _result_fields(
    inputs: _Inputs, output: FantasyTalkingOutput, elapsed: float, normalizer: MotionNormalizer | None
) -> dict[str, Any]:
    height, width = inputs.speakers.portrait.pixels.shape[:2]
    return {
        "frames": output.num_frames,
        "fps": output.fps,
        "width": width,
        "height": height,
        "seconds": output.num_frames / output.fps,
        "seconds_taken": round(elapsed, 3),
        **face_fields(inputs.speakers.portrait),
        "motion_normaliser": None if normalizer is None else asdict(normalizer),
    }


def _summary(job: GenerationJob, result: dict[str, Any], video_sha256: str) -> str:
    line = (
        f"{job.output}: {result['seconds']:.2f} s, {result['width']}x{result['height']}, "
        f"{result['seconds_taken'] / result['seconds']:.1f} s of work per second of video"
    )
    return line + job.reproduction_result(video_sha256)


class _FrameTee:
    """Passes frames on, reports progress and keeps evenly spread frames for the contact sheet."""

    def __init__(
        self,
        frames: Iterable[NDArray[np.uint8]],
        num_frames: int,
        keep_frames: bool,
        on_progress: ProgressCallback,
    ) -> None:
        self.frames, self.num_frames, self.on_progress = frames, num_frames, on_progress
        self.kept_indices = set(contact_sheet_indices(num_frames)) if keep_frames else set()
        self.kept_frames: dict[int, NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(self.frames):
            if index in self.kept_indices:
                self.kept_frames[index] = frame
            self.on_progress("decode", (index + 1) / self.num_frames)
            yield frame

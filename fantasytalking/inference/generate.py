"""From files to a video file: what scripts/infer.py does once its options are read."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fantasytalking import media
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE
from fantasytalking.inference.job import GenerationJob, checked_output_paths
from fantasytalking.inference.model_files import ModelFiles
from fantasytalking.inference.model_sources import (
    ResolvedModel,
    deterministic_algorithms,
    device_name,
    load_pipeline,
    resolve_model,
)
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.control_checks import (
    check_audio_supported,
    check_driving_supported,
    checked_face_scale,
    checked_motion,
)
from fantasytalking.pipeline.distillation_limits import check_supported_guidance, resolve_num_inference_steps
from fantasytalking.pipeline.driving_video import encode_driving_video
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import parse_sizes, prepare_portrait
from fantasytalking.pipeline.speakers import Speakers, mix_audio

OUTPUT_SAMPLE_RATE = 48_000
"""Of the sound that is written; wav2vec2 hears it at 16 kHz."""
CONTACT_SHEET_FRAMES = 12
TEMPORAL_STRIDE = 4
"""Frames of a latent frame of Wan, the first excepted."""


def run_job(job: GenerationJob) -> str:
    """Loads the model and makes the video of a job: see `generate_video`."""
    place = resolve_model(job.config, has_driving_video=bool(job.driving_videos), is_multi_speaker=job.is_multi_speaker)
    return generate_video(job, place, lambda: load_pipeline(job.config, place.files, place.device))


def generate_video(
    job: GenerationJob,
    model: ResolvedModel,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    on_progress: Callable[[str, float], object] = lambda phase, share: None,
) -> str:
    """Makes the video, its record (.json) and, when wanted, its contact sheet (.sheet.png), all of them or none.

    Args:
        open_pipeline: gives the pipeline of the job's model; called once everything else is known to be in order.
        on_progress: told the phase ("denoise", "decode") and the share of it that is done.

    Returns:
        one line: path, duration, seconds taken for each second of video.

    Raises:
        InputError: anything given that cannot be used.
    """
    paths = checked_output_paths(job)
    check_job(job, model.files)
    record = start_record(job, model.files, model.device)
    given = _read_inputs(job, model.files)
    if job.config.notice:
        notify(f"note: {job.config.notice}")
    with ExitStack() as outputs, deterministic_algorithms():
        # Made before the work, so that a place that cannot be written to is told at once.
        video, text, *sheets = (outputs.enter_context(atomic_write(path)) for path in paths)
        pipe = open_pipeline()
        begin = time.perf_counter()
        made = _run_pipeline(pipe, job.config, given, on_progress)
        shown = _FrameTee(pipe.iterate_frames(made.frames, made.num_frames), made.num_frames, bool(sheets), on_progress)
        media.write_video(video, shown, fps=made.fps, audio=given.audio, sample_rate=OUTPUT_SAMPLE_RATE)
        elapsed = time.perf_counter() - begin
        for sheet in sheets:
            write_video_contact_sheet(sheet, shown.kept_frames, made.fps)
        record = replace(record, video_sha256=hash_file(video))
        result = _result_fields(given, made, elapsed, pipe.motion_normalizer)
        text.write_text(record.to_json_string(result), encoding="utf-8")
    return _summary(job, result, record.video_sha256)


class _Inputs(NamedTuple):
    """What the video is made from."""

    speakers: Speakers
    audio: NDArray[np.float32] | None
    """At 48 kHz, for the file; None where nobody has one."""


def _read_inputs(job: GenerationJob, files: ModelFiles) -> _Inputs:
    config = job.config
    samples, sounds = (
        tuple(media.read_audio(path, sample_rate=rate, duration=config.max_seconds) for path in job.audio_paths)
        for rate in (WAV2VEC_SAMPLE_RATE, OUTPUT_SAMPLE_RATE)
    )
    portrait = prepare_portrait(
        media.read_image(job.image),
        parse_sizes(config.sizes),
        fit=config.resize_mode,
        face_index=config.selected_faces,
        num_faces=job.num_faces,
        min_face_fraction=config.min_face_fraction,
    )
    people = Speakers(portrait, samples)
    if job.driving_videos:
        assert files.expression_encoder is not None, "check_controls has checked it"
        encoder = ExpressionEncoder.from_pretrained(files.expression_encoder)
        longest = max((len(one) / WAV2VEC_SAMPLE_RATE for one in samples), default=config.max_seconds)
        drivers = tuple(encode_driving_video(path, encoder, config.fps, longest) for path in job.driving_videos)
        people = replace(people, driving_expressions=drivers)
    people.timeline(config.fps, TEMPORAL_STRIDE)
    return _Inputs(people, mix_audio(sounds) if sounds else None)


def check_job(job: GenerationJob, files: ModelFiles) -> None:
    """What the pipeline would refuse too, but before gigabytes are loaded."""
    config, modules = job.config, files.trained_modules()
    if job.audio_paths:
        check_audio_supported(modules)
    if job.driving_videos:
        check_driving_supported(modules, files.expression_encoder is not None)
    checked_motion(modules, config.expression_motion, config.body_motion)
    checked_face_scale(modules, config.face_scale, files.has_face_encoder)
    distillation = files.distillation()
    resolve_num_inference_steps(distillation, config.num_inference_steps)
    check_supported_guidance(
        distillation, config.guidance, config.negative_prompt, has_driving_video=bool(job.driving_videos)
    )


def start_record(job: GenerationJob, files: ModelFiles, device: torch.device) -> GenerationRecord:
    """The record of the video to be made; what differs from a replayed one is told."""
    record = GenerationRecord.create(
        job.config, job.image, job.audio_paths, job.driving_videos, files, job.output, device_name(device)
    )
    if job.reproduced is not None:
        torch.set_num_threads(job.reproduced.num_threads)
        record = replace(record, num_threads=job.reproduced.num_threads)
        for difference in job.reproduced.differences(record):
            notify(f"note: {difference}; the video may differ")
    return record


def _run_pipeline(
    pipe: FantasyTalkingPipeline, config: InferConfig, inputs: _Inputs, on_progress: Callable[[str, float], object]
) -> FantasyTalkingOutput:
    def tell(_: FantasyTalkingPipeline, step: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        on_progress("denoise", (step + 1) / len(pipe.scheduler.timesteps))
        return values

    return pipe(
        inputs.speakers.portrait,
        inputs.speakers.waveforms,
        config.prompt,
        config.negative_prompt,
        driving_video=inputs.speakers.driving_expressions,
        expression_motion=config.expression_motion,
        body_motion=config.body_motion,
        face_scale=config.face_scale,
        expression_scale=config.expression_scale,
        background=config.background,
        **config.guidance.pipeline_kwargs(),
        num_inference_steps=config.num_inference_steps,
        fps=config.fps,
        window_frames=config.window_frames,
        overlap_frames=config.overlap_frames,
        generator=torch.Generator().manual_seed(config.seed),
        output_type="latent",
        callback_on_step_end=tell,
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
        "motion_normaliser": None if normalizer is None else asdict(normalizer),
    }


def _summary(job: GenerationJob, result: dict[str, Any], video_sha256: str) -> str:
    line = (
        f"{job.output}: {result['seconds']:.2f} s, {result['width']}x{result['height']}, "
        f"{result['seconds_taken'] / result['seconds']:.1f} s of work for a second of video"
    )
    if job.reproduced is None:
        return line
    return line + (
        ", the same bits as recorded" if video_sha256 == job.reproduced.video_sha256 else ", NOT the same as recorded"
    )


class _FrameTee:
    """Passes frames on, tells how many, and keeps a few, evenly spread, for the contact sheet."""

    def __init__(
        self,
        frames: Iterable[NDArray[np.uint8]],
        num_frames: int,
        keep_frames: bool,
        on_progress: Callable[[str, float], object],
    ) -> None:
        self.frames, self.num_frames, self.on_progress = frames, num_frames, on_progress
        self.kept_indices = set(contact_sheet_indices(num_frames)) if keep_frames else set()
        self.kept_frames: dict[int, NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for number, frame in enumerate(self.frames):
            if number in self.kept_indices:
                self.kept_frames[number] = frame
            self.on_progress("decode", (number + 1) / self.num_frames)
            yield frame


def contact_sheet_indices(num_frames: int) -> list[int]:
    """Numbers of the frames that a contact sheet of `num_frames` frames shows, evenly spread."""
    return [int(number) for number in np.linspace(0, num_frames - 1, min(num_frames, CONTACT_SHEET_FRAMES)).round()]


def write_video_contact_sheet(path: Path, frames: Mapping[int, NDArray[np.uint8]], fps: float) -> None:
    """Writes frames (H, W, 3), by their numbers, as one picture with their times."""
    from fantasytalking.perception.contact_sheet import contact_sheet

    captions = [f"{number / fps:.2f} s" for number in frames]
    media.write_image(path, contact_sheet(list(frames.values()), captions=captions))


def notify(message: str) -> None:
    """A line on stderr, where it is in nobody's way."""
    sys.stderr.write(message + "\n")


def silence_libraries() -> None:
    """Leaves the progress bars to us: libraries show one for every file they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

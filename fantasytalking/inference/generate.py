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
from fantasytalking.common.files import hash_file, written_whole
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.inference.job import Job, check_outputs
from fantasytalking.inference.model_files import Weights
from fantasytalking.inference.model_sources import Workplace, describe, load_pipeline, repeatable, workplace
from fantasytalking.inference.provenance import Record
from fantasytalking.motion_normalizer import MotionNormaliser
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.control_checks import check_drive, check_speech, face_weight, motion_intensity
from fantasytalking.pipeline.distillation_limits import check_followed, step_count
from fantasytalking.pipeline.driving_video import read_driver
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import frame_portrait, parse_sizes
from fantasytalking.pipeline.speakers import People, mix

SOUND_RATE = 48_000
"""Of the sound that is written; wav2vec2 hears it at 16 kHz."""
SHEET_FRAMES = 12
STRIDE = 4
"""Frames of a latent frame of Wan, the first excepted."""


def run(job: Job) -> str:
    """Loads the model and makes the video of a job: see `make_video`."""
    place = workplace(job.config, driven=bool(job.drivers), several=job.several_speak)
    return make_video(job, place, lambda: load_pipeline(job.config, place.weights, place.device))


def make_video(
    job: Job,
    place: Workplace,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    progress: Callable[[str, float], object] = lambda phase, share: None,
) -> str:
    """Makes the video, its record (.json) and, when wanted, its contact sheet (.sheet.png), all of them or none.

    Args:
        open_pipeline: gives the pipeline of the job's model; called once everything else is known to be in order.
        progress: told the phase ("denoise", "decode") and the share of it that is done.

    Returns:
        one line: path, duration, seconds taken for each second of video.

    Raises:
        InputError: anything given that cannot be used.
    """
    paths = check_outputs(job)
    check_controls(job, place.weights)
    record = begin_record(job, place.weights, place.device)
    given = _read(job, place.weights)
    if job.config.note:
        tell(f"note: {job.config.note}")
    with ExitStack() as outputs, repeatable():
        # Made before the work, so that a place that cannot be written to is told at once.
        video, text, *sheets = (outputs.enter_context(written_whole(path)) for path in paths)
        pipe = open_pipeline()
        begin = time.perf_counter()
        made = _generate(pipe, job.config, given, progress)
        shown = _Shown(pipe.iterate_frames(made.frames, made.num_frames), made.num_frames, bool(sheets), progress)
        media.write_video(video, shown, fps=made.fps, audio=given.sound, sample_rate=SOUND_RATE)
        elapsed = time.perf_counter() - begin
        for sheet in sheets:
            write_sheet(sheet, shown.kept, made.fps)
        record = replace(record, video=hash_file(video))
        result = _result(given, made, elapsed, pipe.motion_normaliser)
        text.write_text(record.as_json(result), encoding="utf-8")
    return _summary(job, result, record.video)


class _Given(NamedTuple):
    """What the video is made from."""

    people: People
    sound: NDArray[np.float32] | None
    """At 48 kHz, for the file; None where nobody has one."""


def _read(job: Job, weights: Weights) -> _Given:
    config = job.config
    samples, sounds = (
        tuple(media.read_audio(path, sample_rate=rate, duration=config.seconds) for path in job.sounds)
        for rate in (SAMPLE_RATE, SOUND_RATE)
    )
    portrait = frame_portrait(
        media.read_image(job.image),
        parse_sizes(config.sizes),
        fit=config.fit,
        face=config.chosen_faces,
        people=job.people,
        least_face=config.least_face,
    )
    people = People(portrait, samples)
    if job.drivers:
        assert weights.expression_encoder is not None, "check_controls has checked it"
        encoder = ExpressionEncoder.from_pretrained(weights.expression_encoder)
        longest = max((len(one) / SAMPLE_RATE for one in samples), default=config.seconds)
        drivers = tuple(read_driver(path, encoder, config.fps, longest) for path in job.drivers)
        people = replace(people, drivers=drivers)
    people.timing(config.fps, STRIDE)
    return _Given(people, mix(sounds) if sounds else None)


def check_controls(job: Job, weights: Weights) -> None:
    """What the pipeline would refuse too, but before gigabytes are loaded."""
    config, modules = job.config, weights.trained_modules()
    if job.sounds:
        check_speech(modules)
    if job.drivers:
        check_drive(modules, weights.expression_encoder is not None)
    motion_intensity(modules, config.expression_motion, config.body_motion)
    face_weight(modules, config.face_scale, weights.has_face_encoder)
    distillation = weights.distillation()
    step_count(distillation, config.steps)
    check_followed(distillation, config.guidance, config.negative_prompt, driven=bool(job.drivers))


def begin_record(job: Job, weights: Weights, device: torch.device) -> Record:
    """The record of the video to be made; what differs from a replayed one is told."""
    record = Record.of(job.config, job.image, job.sounds, job.drivers, weights, job.output, describe(device))
    if job.replayed is not None:
        torch.set_num_threads(job.replayed.threads)
        record = replace(record, threads=job.replayed.threads)
        for difference in job.replayed.differences(record):
            tell(f"note: {difference}; the video may differ")
    return record


def _generate(
    pipe: FantasyTalkingPipeline, config: InferConfig, given: _Given, progress: Callable[[str, float], object]
) -> FantasyTalkingOutput:
    def tell(_: FantasyTalkingPipeline, step: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        progress("denoise", (step + 1) / len(pipe.scheduler.timesteps))
        return values

    return pipe(
        given.people.portrait,
        given.people.sounds,
        config.prompt,
        config.negative_prompt,
        drive=given.people.drivers,
        expression_motion=config.expression_motion,
        body_motion=config.body_motion,
        face_scale=config.face_scale,
        expression_scale=config.expression_scale,
        background=config.background,
        **config.guidance.arguments(),
        num_inference_steps=config.steps,
        fps=config.fps,
        window_frames=config.window_frames,
        overlap_frames=config.overlap_frames,
        generator=torch.Generator().manual_seed(config.seed),
        output_type="latent",
        callback_on_step_end=tell,
    )


def _result(
    given: _Given, made: FantasyTalkingOutput, elapsed: float, normaliser: MotionNormaliser | None
) -> dict[str, Any]:
    height, width = given.people.portrait.pixels.shape[:2]
    return {
        "frames": made.num_frames,
        "fps": made.fps,
        "width": width,
        "height": height,
        "seconds": made.num_frames / made.fps,
        "seconds_taken": round(elapsed, 3),
        "motion_normaliser": None if normaliser is None else asdict(normaliser),
    }


def _summary(job: Job, result: dict[str, Any], video: str) -> str:
    line = (
        f"{job.output}: {result['seconds']:.2f} s, {result['width']}x{result['height']}, "
        f"{result['seconds_taken'] / result['seconds']:.1f} s of work for a second of video"
    )
    if job.replayed is None:
        return line
    return line + (", the same bits as recorded" if video == job.replayed.video else ", NOT the same as recorded")


class _Shown:
    """Passes frames on, tells how many, and keeps a few, evenly spread, for the contact sheet."""

    def __init__(
        self,
        frames: Iterable[NDArray[np.uint8]],
        count: int,
        keep: bool,
        progress: Callable[[str, float], object],
    ) -> None:
        self.frames, self.count, self.progress = frames, count, progress
        self.wanted = set(sheet_moments(count)) if keep else set()
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for number, frame in enumerate(self.frames):
            if number in self.wanted:
                self.kept[number] = frame
            self.progress("decode", (number + 1) / self.count)
            yield frame


def sheet_moments(count: int) -> list[int]:
    """Numbers of the frames that a contact sheet of `count` frames shows, evenly spread."""
    return [int(number) for number in np.linspace(0, count - 1, min(count, SHEET_FRAMES)).round()]


def write_sheet(path: Path, frames: Mapping[int, NDArray[np.uint8]], fps: float) -> None:
    """Writes frames (H, W, 3), by their numbers, as one picture with their times."""
    from fantasytalking.perception.contact_sheet import contact_sheet

    captions = [f"{number / fps:.2f} s" for number in frames]
    media.write_image(path, contact_sheet(list(frames.values()), captions=captions))


def tell(line: str) -> None:
    """A line on stderr, where it is in nobody's way."""
    sys.stderr.write(line + "\n")


def quiet() -> None:
    """Leaves the progress bars to us: libraries show one for every file they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

"""Streams a video from files or pipes to a growing file or a pipe."""

import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fantasytalking import media
from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.console import notify, notify_warning
from fantasytalking.inference.job import STDIO_PATH, GenerationJob, checked_output_paths, start_record
from fantasytalking.inference.model_sources import ResolvedModel, deterministic_algorithms
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.inference.video_outputs import OUTPUT_SAMPLE_RATE, face_fields
from fantasytalking.media.audio_stream import DualRateAudio
from fantasytalking.media.fragmented_mp4 import FragmentedMp4Writer
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait

STREAM_SAMPLE_RATES = (AUDIO_SAMPLE_RATE, OUTPUT_SAMPLE_RATE)
INPUT_AUDIO_SUFFIX = ".heard.wav"
"""Suffix of the copy of piped audio; VIDEO.wav may be the user's own recording."""


class StreamTiming(NamedTuple):
    """Length and speed of a stream, without loading."""

    num_frames: int
    size: tuple[int, int]
    """Width and height."""
    first_frame_seconds: float
    """Seconds until the first frame was written."""
    total_seconds: float
    """Seconds until the last frame was written."""


def stream_video(
    job: GenerationJob,
    model: ResolvedModel,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    on_progress: Callable[[str, float], object] = lambda phase, fraction: None,
    on_frame: Callable[[float, NDArray[np.uint8]], object] = lambda seconds, frame: None,
    on_warning: Callable[[str], object] = notify_warning,
) -> str:
    """Generates a video that can be watched while it is generated.

    A file grows under a temporary name, which is printed, and is renamed at the end, next to its record. Piped audio is
    kept beside them (.heard.wav, 16 kHz, 16 bits), so that the record can be reproduced: bit for bit where the pipe had
    that format, else up to rounding. A video that is written to standard output leaves no record.

    Args:
        open_pipeline: returns the pipeline of the job's model; called once everything else has been checked.
        on_progress: called with "denoise" and the fraction of a window's steps that is done.
        on_warning: called with a line about a portrait that the model cannot animate well.
        on_frame: called with the time in seconds and (H, W, 3) of every frame once it is written.

    Returns:
        one line: path, duration, seconds to the first frame, frames per second.

    Raises:
        InputError: an input or a control cannot be used.
    """
    if job.contact_sheet:
        raise InputError(
            "a stream has no contact sheet, which shows a whole video; leave out --contact-sheet, or --stream",
            code=ErrorCode.conflict,
            field="--contact-sheet",
        )
    audio_path = _single_audio_path(job)
    job.plan(model.facts)
    if job.config.notice:
        notify(f"note: {job.config.notice}")
    portrait = job.config.portrait_options(model.facts.face_ranges).prepare(job.image)
    if framing := portrait.framing_warning(model.facts.face_ranges, job.config.resize_mode):
        on_warning(framing)

    def write(target: Path | BinaryIO, copy_path: Path | None) -> tuple[StreamTiming, MotionNormalizer | None]:
        with _open_audio(audio_path, job.config, copy_path) as audio, deterministic_algorithms():
            pipe = open_pipeline()
            if isinstance(target, Path):
                notify(f"the video grows in {target}")
            timing = _write_stream(target, pipe, job.config, portrait, audio, on_progress, on_frame)
            return timing, pipe.motion_normalizer

    if job.output == STDIO_PATH:
        timing, _ = write(sys.stdout.buffer, None)
        return _summary(job, timing)
    is_piped = audio_path == STDIO_PATH
    paths = checked_output_paths(job, *([INPUT_AUDIO_SUFFIX] if is_piped else []))
    record = None if is_piped else start_record(job, model)
    with ExitStack() as outputs:
        video, text, *copies = (outputs.enter_context(atomic_write(path)) for path in paths)
        timing, normalizer = write(video, copies[0] if copies else None)
        if record is None:
            record = GenerationRecord.create(job.config, job.image, copies, (), model, job.output)
            record = replace(record, audio_paths=(paths[-1],))
        record = replace(record, video_sha256=hash_file(video))
        record.save(text, _result_fields(job.config, timing, normalizer) | face_fields(portrait))
    return _summary(job, timing) + job.reproduction_result(record.video_sha256)


def _single_audio_path(job: GenerationJob) -> Path:
    """The audio of a stream, which has one speaker and no driving video."""
    selected = job.config.face_indices
    if len(selected) > 1:
        raise InputError(
            f"{len(selected)} faces are selected; a stream has one speaker: give one --face-index, or leave out "
            "--stream",
            code=ErrorCode.unsupported,
            field="--face-index",
            value=len(selected),
        )
    if job.driving_videos or len(job.audio_paths) != 1:
        raise InputError(
            f"{len(job.audio_paths)} audio files and {len(job.driving_videos)} driving videos were given; a stream "
            "takes one audio and no driving video: leave out the others, or --stream",
            code=ErrorCode.unsupported,
            field="--driving-video" if job.driving_videos else "--audio",
            value=len(job.driving_videos) or len(job.audio_paths),
        )
    return job.audio_paths[0]


@contextmanager
def _open_audio(path: Path, config: InferConfig, copy_path: Path | None) -> Iterator[DualRateAudio]:
    """Opens the audio of a job; piped audio is copied to `copy_path`."""
    if path != STDIO_PATH:
        media.probe(path)
        yield DualRateAudio.from_file(path, STREAM_SAMPLE_RATES, config.max_seconds)
        return
    with ExitStack() as opened:
        pipe = opened.enter_context(open(sys.stdin.fileno(), "rb", closefd=False))
        if copy_path is None:
            yield DualRateAudio.from_pipe(pipe, STREAM_SAMPLE_RATES, config.max_seconds)
            return
        file = opened.enter_context(wave.open(str(copy_path), "wb"))
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_SAMPLE_RATE)

        def copy(block: NDArray[np.float32]) -> None:
            file.writeframes(np.clip(np.round(block * 32768), -32768, 32767).astype("<i2").tobytes())

        yield DualRateAudio.from_pipe(pipe, STREAM_SAMPLE_RATES, config.max_seconds, copy)


def _write_stream(
    target: Path | BinaryIO,
    pipe: FantasyTalkingPipeline,
    config: InferConfig,
    portrait: Portrait,
    audio: DualRateAudio,
    on_progress: Callable[[str, float], object],
    on_frame: Callable[[float, NDArray[np.uint8]], object],
) -> StreamTiming:
    height, width = portrait.pixels.shape[:2]
    first_frame = 0.0
    start = time.perf_counter()
    with (
        FragmentedMp4Writer(target, fps=config.fps, sample_rate=OUTPUT_SAMPLE_RATE) as video,
        tqdm(desc="stream", unit=" frames", dynamic_ncols=True) as bar,
    ):
        streamer = pipe.stream(
            portrait,
            audio.model_audio,
            config.controls(),
            generator=torch.Generator().manual_seed(config.seed),
            on_progress=lambda fraction: on_progress("denoise", fraction),
        )
        for chunk in streamer:
            for frame in chunk.frames:
                span = (video.samples_until(index) for index in (video.num_frames, video.num_frames + 1))
                video.write(frame, audio.output_audio.take(*span))
                first_frame = first_frame or time.perf_counter() - start
                on_frame((video.num_frames - 1) / config.fps, frame)
                bar.update()
    return StreamTiming(video.num_frames, (width, height), first_frame, time.perf_counter() - start)


def _result_fields(config: InferConfig, timing: StreamTiming, normalizer: MotionNormalizer | None) -> dict[str, Any]:
    return {
        "frames": timing.num_frames,
        "fps": config.fps,
        "width": timing.size[0],
        "height": timing.size[1],
        "seconds": timing.num_frames / config.fps,
        "seconds_taken": round(timing.total_seconds, 3),
        "first_frame_after": round(timing.first_frame_seconds, 3),
        "frames_a_second": round(timing.num_frames / timing.total_seconds, 3),
        "motion_normaliser": None if normalizer is None else asdict(normalizer),
    }


def _summary(job: GenerationJob, timing: StreamTiming) -> str:
    name = "standard output" if job.output == STDIO_PATH else job.output
    return (
        f"{name}: {timing.num_frames / job.config.fps:.2f} s, {timing.size[0]}x{timing.size[1]}, "
        f"first frame after {timing.first_frame_seconds:.2f} s, {timing.num_frames / timing.total_seconds:.1f} frames "
        "per second"
    )

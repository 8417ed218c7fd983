"""A stream from files or pipes to a growing file or a pipe: what scripts/infer.py --stream does."""

import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fantasytalking import media
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE
from fantasytalking.inference.generate import OUTPUT_SAMPLE_RATE, check_job, notify, start_record
from fantasytalking.inference.job import GenerationJob, checked_output_paths
from fantasytalking.inference.model_sources import ResolvedModel, deterministic_algorithms, device_name
from fantasytalking.inference.provenance import GenerationRecord, hash_file
from fantasytalking.media.audio_stream import DualRateAudio
from fantasytalking.media.fragmented_mp4 import FragmentedMp4Writer
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.streaming.streamer import portrait_from_config

STDIO_PATH = Path("-")
"""As the path of a sound or a video: standard input or output."""
STREAM_SAMPLE_RATES = (WAV2VEC_SAMPLE_RATE, OUTPUT_SAMPLE_RATE)
INPUT_AUDIO_SUFFIX = ".heard.wav"
"""Suffix of what was heard: whoever records what they pipe, does so under the video's name with .wav."""


class StreamTiming(NamedTuple):
    """How fast a stream was made, loading not counted."""

    num_frames: int
    size: tuple[int, int]
    """Width and height."""
    first_frame_seconds: float
    """Seconds from the begin until the first frame was written."""
    total_seconds: float
    """From the begin until the last frame was written."""


def stream_video(
    job: GenerationJob,
    model: ResolvedModel,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    on_progress: Callable[[str, float], object] = lambda phase, share: None,
    on_frame: Callable[[float, NDArray[np.uint8]], object] = lambda start, frame: None,
) -> str:
    """Makes a video that can be watched while it is being made.

    A file grows under a temporary name, which is told, and is put in its place at the end, with its record. A sound
    that came through a pipe is kept beside them as it was heard (.heard.wav, 16 kHz, 16 bits), so that the record can
    be replayed: bit for bit where it came so, else with what the rounding makes of it, and that sound in the video. A
    video that goes to standard output leaves no record.

    Args:
        open_pipeline: gives the pipeline of the job's model; called once everything else is known to be in order.
        on_progress: told "denoise" and the share of a window's steps that is done.
        on_frame: given the time in seconds and (H, W, 3) of every frame once it is written.

    Returns:
        one line: path, duration, seconds to the first frame, frames a second.

    Raises:
        InputError: anything given that cannot be used.
    """
    if job.contact_sheet:
        raise InputError("a contact sheet shows a whole video; leave out --contact-sheet, or --stream")
    sound_path = _single_audio_path(job)
    check_job(job, model.files)
    if job.config.notice:
        notify(f"note: {job.config.notice}")
    portrait = portrait_from_config(job.image, job.config)
    if job.output == STDIO_PATH:
        with _open_audio(sound_path, job.config, None) as sound, deterministic_algorithms():
            return _summary(
                job,
                _write_stream(sys.stdout.buffer, open_pipeline(), job.config, portrait, sound, on_progress, on_frame),
            )
    paths = [
        *checked_output_paths(job),
        *([job.output.with_suffix(INPUT_AUDIO_SUFFIX)] if sound_path == STDIO_PATH else []),
    ]
    record = None if sound_path == STDIO_PATH else start_record(job, model.files, model.device)
    with ExitStack() as outputs:
        video, text, *kept = (outputs.enter_context(atomic_write(path)) for path in paths)
        with _open_audio(sound_path, job.config, kept[0] if kept else None) as sound, deterministic_algorithms():
            pipe = open_pipeline()
            notify(f"the video grows in {video}")
            pace = _write_stream(video, pipe, job.config, portrait, sound, on_progress, on_frame)
        if record is None:
            device = device_name(model.device)
            record = GenerationRecord.create(job.config, job.image, kept[:1], (), model.files, job.output, device)
            record = replace(record, audio_paths=(paths[-1],))
        record = replace(record, video_sha256=hash_file(video))
        text.write_text(
            record.to_json_string(_result_fields(job.config, pace, pipe.motion_normalizer)), encoding="utf-8"
        )
    same = "" if job.reproduced is None or record.video_sha256 == job.reproduced.video_sha256 else "NOT "
    return _summary(job, pace) + ("" if job.reproduced is None else f", {same}the same bits as recorded")


def _single_audio_path(job: GenerationJob) -> Path:
    """The one sound of a stream.

    Raises:
        InputError: there are several, several faces were chosen, or something drives.
    """
    if len(job.config.face_indices) > 1:
        raise InputError(
            f"{len(job.config.face_indices)} faces were chosen; a stream has one person who speaks: give one --face, "
            "or leave "
            "out --stream"
        )
    if job.driving_videos or len(job.audio_paths) != 1:
        raise InputError(
            f"{len(job.audio_paths)} sounds and {len(job.driving_videos)} drivers were given; a stream hears one sound "
            "and nothing "
            "drives it: leave the others out, or --stream"
        )
    return job.audio_paths[0]


@contextmanager
def _open_audio(path: Path, config: InferConfig, copy_path: Path | None) -> Iterator[DualRateAudio]:
    """The sound of a job; of a pipe's, what was heard is kept in a file."""
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
        file.setframerate(WAV2VEC_SAMPLE_RATE)

        def listen(block: NDArray[np.float32]) -> None:
            file.writeframes(np.clip(np.round(block * 32768), -32768, 32767).astype("<i2").tobytes())

        yield DualRateAudio.from_pipe(pipe, STREAM_SAMPLE_RATES, config.max_seconds, listen)


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
    first = 0.0
    begin = time.perf_counter()
    with (
        FragmentedMp4Writer(target, fps=config.fps, sample_rate=OUTPUT_SAMPLE_RATE) as video,
        tqdm(desc="stream", unit=" frames", dynamic_ncols=True) as bar,
    ):
        for piece in pipe.stream(portrait, audio.model_audio, config, lambda share: on_progress("denoise", share)):
            for frame in piece.frames:
                span = (video.samples_until(number) for number in (video.num_frames, video.num_frames + 1))
                video.write(frame, audio.output_audio.take(*span))
                first = first or time.perf_counter() - begin
                on_frame((video.num_frames - 1) / config.fps, frame)
                bar.update()
    return StreamTiming(video.num_frames, (width, height), first, time.perf_counter() - begin)


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
        "a second"
    )

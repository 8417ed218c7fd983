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
from fantasytalking.common.files import written_whole
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.inference.generate import SOUND_RATE, begin_record, check_controls, tell
from fantasytalking.inference.job import Job, check_outputs
from fantasytalking.inference.model_sources import Workplace, describe, repeatable
from fantasytalking.inference.provenance import Record, hash_file
from fantasytalking.media.audio_stream import LiveSound
from fantasytalking.media.fragmented_mp4 import GrowingVideo
from fantasytalking.motion_normalizer import MotionNormaliser
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait
from fantasytalking.pipeline.streaming.streamer import portrait_for

PIPE = Path("-")
"""As the path of a sound or a video: standard input or output."""
RATES = (SAMPLE_RATE, SOUND_RATE)
HEARD = ".heard.wav"
"""Suffix of what was heard: whoever records what they pipe, does so under the video's name with .wav."""


class Pace(NamedTuple):
    """How fast a stream was made, loading not counted."""

    frames: int
    size: tuple[int, int]
    """Width and height."""
    first_frame: float
    """Seconds from the begin until the first frame was written."""
    seconds: float
    """From the begin until the last frame was written."""


def stream_video(
    job: Job,
    place: Workplace,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    progress: Callable[[str, float], object] = lambda phase, share: None,
    show: Callable[[float, NDArray[np.uint8]], object] = lambda start, frame: None,
) -> str:
    """Makes a video that can be watched while it is being made.

    A file grows under a temporary name, which is told, and is put in its place at the end, with its record. A sound
    that came through a pipe is kept beside them as it was heard (.heard.wav, 16 kHz, 16 bits), so that the record can
    be replayed: bit for bit where it came so, else with what the rounding makes of it, and that sound in the video. A
    video that goes to standard output leaves no record.

    Args:
        open_pipeline: gives the pipeline of the job's model; called once everything else is known to be in order.
        progress: told "denoise" and the share of a window's steps that is done.
        show: given the time in seconds and (H, W, 3) of every frame once it is written.

    Returns:
        one line: path, duration, seconds to the first frame, frames a second.

    Raises:
        InputError: anything given that cannot be used.
    """
    if job.contact_sheet:
        raise InputError("a contact sheet shows a whole video; leave out --contact-sheet, or --stream")
    sound_path = _only_sound(job)
    check_controls(job, place.weights)
    if job.config.note:
        tell(f"note: {job.config.note}")
    portrait = portrait_for(job.image, job.config)
    if job.output == PIPE:
        with _heard(sound_path, job.config, None) as sound, repeatable():
            return _summary(
                job, _write(sys.stdout.buffer, open_pipeline(), job.config, portrait, sound, progress, show)
            )
    paths = [*check_outputs(job), *([job.output.with_suffix(HEARD)] if sound_path == PIPE else [])]
    record = None if sound_path == PIPE else begin_record(job, place.weights, place.device)
    with ExitStack() as outputs:
        video, text, *kept = (outputs.enter_context(written_whole(path)) for path in paths)
        with _heard(sound_path, job.config, kept[0] if kept else None) as sound, repeatable():
            pipe = open_pipeline()
            tell(f"the video grows in {video}")
            pace = _write(video, pipe, job.config, portrait, sound, progress, show)
        if record is None:
            device = describe(place.device)
            record = Record.of(job.config, job.image, kept[:1], (), place.weights, job.output, device)
            record = replace(record, sounds=(paths[-1],))
        record = replace(record, video=hash_file(video))
        text.write_text(record.as_json(_result(job.config, pace, pipe.motion_normaliser)), encoding="utf-8")
    same = "" if job.replayed is None or record.video == job.replayed.video else "NOT "
    return _summary(job, pace) + ("" if job.replayed is None else f", {same}the same bits as recorded")


def _only_sound(job: Job) -> Path:
    """The one sound of a stream.

    Raises:
        InputError: there are several, several faces were chosen, or something drives.
    """
    if len(job.config.faces) > 1:
        raise InputError(
            f"{len(job.config.faces)} faces were chosen; a stream has one person who speaks: give one --face, or leave "
            "out --stream"
        )
    if job.drivers or len(job.sounds) != 1:
        raise InputError(
            f"{len(job.sounds)} sounds and {len(job.drivers)} drivers were given; a stream hears one sound and nothing "
            "drives it: leave the others out, or --stream"
        )
    return job.sounds[0]


@contextmanager
def _heard(path: Path, config: InferConfig, keep: Path | None) -> Iterator[LiveSound]:
    """The sound of a job; of a pipe's, what was heard is kept in a file."""
    if path != PIPE:
        media.probe(path)
        yield LiveSound.of_file(path, RATES, config.seconds)
        return
    with ExitStack() as opened:
        pipe = opened.enter_context(open(sys.stdin.fileno(), "rb", closefd=False))
        if keep is None:
            yield LiveSound.of_pipe(pipe, RATES, config.seconds)
            return
        file = opened.enter_context(wave.open(str(keep), "wb"))
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)

        def listen(block: NDArray[np.float32]) -> None:
            file.writeframes(np.clip(np.round(block * 32768), -32768, 32767).astype("<i2").tobytes())

        yield LiveSound.of_pipe(pipe, RATES, config.seconds, listen)


def _write(
    target: Path | BinaryIO,
    pipe: FantasyTalkingPipeline,
    config: InferConfig,
    portrait: Portrait,
    sound: LiveSound,
    progress: Callable[[str, float], object],
    show: Callable[[float, NDArray[np.uint8]], object],
) -> Pace:
    height, width = portrait.pixels.shape[:2]
    first = 0.0
    begin = time.perf_counter()
    with (
        GrowingVideo(target, fps=config.fps, sample_rate=SOUND_RATE) as video,
        tqdm(desc="stream", unit=" frames", dynamic_ncols=True) as bar,
    ):
        for piece in pipe.stream(portrait, sound.heard, config, lambda share: progress("denoise", share)):
            for frame in piece.frames:
                span = (video.samples_until(number) for number in (video.frames, video.frames + 1))
                video.write(frame, sound.written.take(*span))
                first = first or time.perf_counter() - begin
                show((video.frames - 1) / config.fps, frame)
                bar.update()
    return Pace(video.frames, (width, height), first, time.perf_counter() - begin)


def _result(config: InferConfig, pace: Pace, normaliser: MotionNormaliser | None) -> dict[str, Any]:
    return {
        "frames": pace.frames,
        "fps": config.fps,
        "width": pace.size[0],
        "height": pace.size[1],
        "seconds": pace.frames / config.fps,
        "seconds_taken": round(pace.seconds, 3),
        "first_frame_after": round(pace.first_frame, 3),
        "frames_a_second": round(pace.frames / pace.seconds, 3),
        "motion_normaliser": None if normaliser is None else asdict(normaliser),
    }


def _summary(job: Job, pace: Pace) -> str:
    name = "standard output" if job.output == PIPE else job.output
    return (
        f"{name}: {pace.frames / job.config.fps:.2f} s, {pace.size[0]}x{pace.size[1]}, "
        f"first frame after {pace.first_frame:.2f} s, {pace.frames / pace.seconds:.1f} frames a second"
    )

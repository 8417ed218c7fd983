"""Reading and writing moving pictures: true time stamps, upright square-pixel RGB, BT.709 when written."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.media.container import (
    check_decoder,
    check_frame_size,
    declared_duration,
    display_size,
    media_errors,
    open_media,
    stream_frame_rate,
    time_origin,
    video_stream,
)
from fantasytalking.media.h264 import add_audio_stream, add_video_stream, audio_frame, checked_frame_shape, to_yuv_frame

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_VIDEO_BYTES = 8 * 2**30
"""`read_video` refuses to hold more than this in memory; `iter_frames` streams any length."""

TRUNCATION_TOLERANCE_SECONDS = 1.0
"""A file may end so much before it says to; one that lacks more was cut off."""


class Video(NamedTuple):
    """A stretch of video in memory."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB."""
    times: np.ndarray
    """(T,) float64 seconds from the first frame of the file."""
    fps: float
    """Frames per second: as asked, else the file's mean."""


def iter_frames(
    path: str | Path, *, fps: float | None, start: float = 0.0, duration: float | None = None, threads: int = 1
) -> Iterator[tuple[float, np.ndarray]]:
    """Streams (seconds, frame) pairs; memory does not grow with the length of the video.

    Times count from the file's first frame, whatever `start` is. With `fps` None every frame from `start` on comes with
    its true time stamp. Otherwise times are start + k / fps and each frame is the one whose true time stamp lies
    nearest (the average lag is then zero, where holding the last frame lags by half a frame), until the last frame's
    showing ends or `duration` seconds are full.

    Args:
        threads: of the decoder; 1 leaves the other cores to other processes, 0 lets it choose.

    Yields:
        float seconds and (H, W, 3) uint8 RGB, upright, square pixels; untagged colours count as BT.601, as in FFmpeg.

    Raises:
        InputError: no picture, a damaged or cut-off file (after its good frames), a size that changes, bad arguments.
    """
    if fps is not None and not 0 < fps <= 240:
        raise InputError(f"fps is {fps}; frames can be read at above 0 and up to 240 a second")
    if not 0 <= start < math.inf:
        raise InputError(f"start is {start}; give seconds from the beginning of the video, 0 or more")
    if duration is not None and not 0 < duration < math.inf:
        raise InputError(f"duration is {duration}; give a positive number of seconds or leave it out")
    end = math.inf if duration is None else start + duration
    raw = _decode(path, start, end, threads)
    chosen = _trim(raw, start, end) if fps is None else _resample_nearest(raw, fps, start, end)
    picture = _FrameConverter(path)
    for time, frame in chosen:
        yield time, picture.to_rgb(frame)


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_frames: int = 3000,
) -> Video:
    """Reads a stretch of video whole; see `iter_frames` for times and resampling.

    Raises:
        InputError: as `iter_frames`; also when there is no frame in the stretch, when it has more than `max_frames`
            frames, or when they would take more than `MAX_VIDEO_BYTES`.
    """
    frames: list[np.ndarray] = []
    times: list[float] = []
    size = 0
    for time, frame in iter_frames(path, fps=fps, start=start, duration=duration):
        size += frame.nbytes
        if len(frames) == max_frames or size > MAX_VIDEO_BYTES:
            raise InputError(
                f"'{path}' has more than {len(frames)} frames to read at once (limit {max_frames} frames, "
                f"{MAX_VIDEO_BYTES >> 30} GiB); give a shorter duration"
            )
        frames.append(frame)
        times.append(time)
    if not frames:
        raise InputError(f"'{path}' has no frame from {start:g} s on; give an earlier start")
    with open_media(path) as container:
        stream = video_stream(container)
        assert stream is not None
        rate = fps or stream_frame_rate(stream)
    return Video(np.stack(frames), np.array(times), rate)


class _DecodedFrame(NamedTuple):
    """A decoded frame that is not yet converted: its time, the seconds that it is shown, itself, its stream."""

    time: float
    display_seconds: float
    frame: "VideoFrame"
    stream: "VideoStream"


def _decode(path: str | Path, start: float, end: float, threads: int) -> Iterator[_DecodedFrame]:
    """Decodes from shortly before `start` until `end` is passed.

    A seek may land behind `start`, where nothing tells the demuxer of key frames (MPEG-TS); then it is decoded from the
    beginning.
    """
    raw = _decode_from(path, max(0.0, start - 1), end, threads)
    first = next(raw, None)
    if start > 1 and (first is None or first.time > start):
        raw.close()
        yield from _decode_from(path, 0.0, end, threads)
        return
    if first is not None:
        yield first
    yield from raw


def _decode_from(path: str | Path, begin: float, end: float, threads: int) -> Generator[_DecodedFrame]:
    """Decodes from about `begin` on; complains when the file ends too early."""
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise InputError(f"'{path}' has no picture; give a video file")
        check_decoder(path, stream)
        check_frame_size(path, stream.width, stream.height)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        zero, rate = time_origin(container), stream_frame_rate(stream) or 25.0
        last, shown, declared = -math.inf, 1 / rate, declared_duration(stream)
        if begin > 0 and stream.time_base is not None:
            container.seek(int((zero + begin) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            stamp = frame.pts if frame.pts is not None else frame.dts
            time = max(last, -1 / rate) + 1 / rate
            if stamp is not None and frame.time_base is not None:
                time = float(stamp * frame.time_base) - zero
            if time <= last:
                continue
            last = time
            shown = _display_seconds(frame, declared - time, rate)
            yield _DecodedFrame(time, shown, frame, stream)
            if time > end + 1:
                return
        nothing_behind_a_seek = begin > 0 and last == -math.inf
        if not nothing_behind_a_seek and min(end, declared) - (last + shown) > TRUNCATION_TOLERANCE_SECONDS:
            raise InputError(
                f"'{path}' breaks off at {max(last, 0.0):.2f} s of the {declared:.2f} s it declares; copy it again, "
                "or give a duration that ends before"
            )


def _display_seconds(frame: "VideoFrame", remaining: float, frame_rate: float) -> float:
    """Seconds that a frame is shown where no other follows: its own, but no more than is `remaining` of the file.

    Where it has none of its own, what is left, a second at most: a file that was cut off says to go on for long.
    """
    own = float(frame.duration * frame.time_base) if frame.duration and frame.time_base is not None else 0.0
    if remaining <= 0:
        return own or 1 / frame_rate
    return min(own or TRUNCATION_TOLERANCE_SECONDS, remaining)


def _trim(decoded: Iterator[_DecodedFrame], start: float, end: float) -> Iterator[tuple[float, _DecodedFrame]]:
    for item in decoded:
        if item.time >= end - 1e-9:
            return
        if item.time >= start - 1e-9:
            yield item.time, item


def _resample_nearest(
    decoded: Iterator[_DecodedFrame], fps: float, start: float, end: float
) -> Iterator[tuple[float, _DecodedFrame]]:
    """The grid start + k / fps, each with the frame nearest to it; two decoded frames are held."""
    previous: _DecodedFrame | None = None
    index = 0
    for item in decoded:
        # Everything up to halfway between the two stamps belongs to the earlier frame.
        border = item.time if previous is None else (previous.time + item.time) / 2
        while (time := start + index / fps) <= border and time < end - 1e-9:
            yield time, previous or item
            index += 1
        if time >= end - 1e-9:
            return
        previous = item
    if previous is None:
        return
    # A quarter of an output frame of tolerance: 4.0 s at 25 fps are 100 frames whatever the rounding of the stamps.
    while (time := start + index / fps) < min(end - 1e-9, previous.time + previous.display_seconds - 0.25 / fps):
        yield time, previous
        index += 1


class _FrameConverter:
    """Turns decoded frames into upright RGB arrays of one size."""

    def __init__(self, path: str | Path) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.reformatter = VideoReformatter()
        self.coded_size: tuple[int, int] | None = None

    def to_rgb(self, decoded: _DecodedFrame) -> np.ndarray:
        frame = decoded.frame
        size = (frame.width, frame.height)
        if self.coded_size not in (None, size):
            raise InputError(
                f"'{self.path}' changes its size at {decoded.time:.2f} s; give videos of one size throughout"
            )
        self.coded_size = size
        quarter_turns = round(frame.rotation / 90) % 4
        width, height = display_size(frame, decoded.stream)
        if quarter_turns % 2:
            width, height = height, width
        check_frame_size(self.path, width, height)
        with media_errors(Path(self.path)):
            array = self.reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(array, quarter_turns)) if quarter_turns else array


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    audio: np.ndarray | None = None,
    sample_rate: int = 16000,
    crf: int = 16,
) -> None:
    """Writes an mp4: H.264 yuv420p tagged BT.709 (limited range), AAC sound. Same input, same file.

    The sound is cut, or padded with silence, to the length of the picture.

    Args:
        frames: (H, W, 3) uint8 RGB each; sides must be even, because yuv420p halves the colour planes.
        fps: frames per second.
        audio: (samples,) float mono in [-1, 1] at `sample_rate`, or None for a silent file.
        crf: x264's constant rate factor, 0 (lossless) to 51; 16 cannot be told from the source by eye.

    Raises:
        InputError: no frame, odd or changing sizes, wrong shapes or types, or the output cannot be written.
    """
    if not 0 < fps <= 240:
        raise InputError(f"fps is {fps}; videos are written at above 0 and up to 240 frames a second")
    if audio is not None and (audio.ndim != 1 or not np.isfinite(audio).all()):
        raise InputError(f"audio has shape {audio.shape}; give finite mono samples of shape (samples,)")
    with atomic_write(path) as temporary, _writing_errors(path):
        _encode(temporary, frames, Fraction(fps).limit_denominator(1001), audio, sample_rate, crf)


@contextmanager
def _writing_errors(path: str | Path) -> Iterator[None]:
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot write '{path}': {reason}; choose another output, rate or size") from error


def _encode(
    path: Path, frames: Iterable[np.ndarray], frame_rate: Fraction, audio: np.ndarray | None, sample_rate: int, crf: int
) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        picture: Any = None
        sound: Any = None
        shape: tuple[int, ...] = ()
        written = count = 0
        for count, frame in enumerate(frames, start=1):
            if picture is None:
                shape = checked_frame_shape(frame)
                picture = add_video_stream(container, frame_rate, shape, crf)
                sound = add_audio_stream(container, sample_rate) if audio is not None else None
            if frame.shape != shape or frame.dtype != np.uint8:
                raise InputError(f"frame {count} is {frame.dtype} {frame.shape}, the first is uint8 {shape}")
            container.mux(picture.encode(to_yuv_frame(frame, count - 1)))
            if audio is not None:
                until = round(count / frame_rate * sample_rate)
                container.mux(sound.encode(audio_frame(audio, written, until, sample_rate)))
                written = until
        if picture is None:
            raise InputError("there is no frame to write; give at least one")
        container.mux(picture.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))

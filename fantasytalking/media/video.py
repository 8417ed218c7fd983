"""Reads and writes video: true timestamps, upright RGB with square pixels, BT.709 when written."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.limits import MAX_CLIP_FRAMES, MAX_PAUSE_SECONDS, MAX_VIDEO_BYTES
from fantasytalking.common.os_errors import describe_os_error
from fantasytalking.media.container import (
    check_decoder,
    check_frame_size,
    check_time_span,
    declared_duration,
    display_size,
    media_errors,
    open_media,
    stream_frame_rate,
    time_origin,
    video_stream,
)
from fantasytalking.media.h264 import (
    add_audio_stream,
    add_video_stream,
    audio_frame,
    check_frame_rate,
    check_same_shape,
    checked_frame_shape,
    to_yuv_frame,
)
from fantasytalking.media.joined_clock import decode_joined, may_seek

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


TRUNCATION_TOLERANCE_SECONDS = 1.0
"""A file may end this long before its declared end; if more is missing, it was truncated."""


class Video(NamedTuple):
    """A segment of a video in memory."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB."""
    times: np.ndarray
    """(T,) float64 seconds from the first frame of the file."""
    fps: float
    """Frames per second: the requested rate, else the mean of the file."""


def iter_frames(
    path: str | Path, *, fps: float | None, start: float = 0.0, duration: float | None = None, threads: int = 1
) -> Iterator[tuple[float, np.ndarray]]:
    """Streams (seconds, frame) pairs; memory does not grow with the length of the video.

    Times count from the first frame of the file, whatever `start` is. With `fps` None, every frame from `start` on is
    yielded with its true timestamp. Otherwise the times are start + k / fps, and each frame is the one with the nearest
    true timestamp (the mean lag is then zero; holding the last frame would lag by half a frame), until the display of
    the last frame ends or `duration` seconds are complete.

    Args:
        path: video file.
        fps: frames per second, above 0 and up to 240; None keeps the frames of the file.
        start: seconds from the first frame.
        duration: seconds; None reads to the end.
        threads: decoder threads; 1 leaves the other cores to other processes, 0 lets the decoder choose.

    Yields:
        float seconds and (H, W, 3) uint8 RGB, upright, with square pixels; untagged colors count as BT.601, as in
        FFmpeg.

    Raises:
        InputError: an argument is out of range, or the file has no video, is damaged or truncated (after its intact
            frames), or changes its size.
    """
    if fps is not None:
        check_frame_rate(fps)
    check_time_span(start, duration)
    end = math.inf if duration is None else start + duration
    raw = decode_frames(path, start, end, threads)
    if fps is None:
        chosen = _trim(raw, start, end)
    else:
        chosen = _resample_nearest(_without_long_pauses(raw, path, start, end), fps, start, end)
    converter = FrameConverter(path)
    for time, frame in chosen:
        yield time, converter.to_rgb(frame)


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_frames: int = MAX_CLIP_FRAMES,
) -> Video:
    """Reads a segment of a video into memory; see `iter_frames` for times and resampling.

    Args:
        path: video file.
        fps: frames per second; None keeps the frames of the file.
        start: seconds from the first frame.
        duration: seconds; None reads to the end.
        max_frames: maximum number of frames.

    Raises:
        InputError: as `iter_frames`; also if the segment has no frame, more than `max_frames` frames, or frames of more
            than `MAX_VIDEO_BYTES`.
    """
    frames: list[np.ndarray] = []
    times: list[float] = []
    size = 0
    for time, frame in iter_frames(path, fps=fps, start=start, duration=duration):
        size += frame.nbytes
        if len(frames) == max_frames or size > MAX_VIDEO_BYTES:
            raise InputError(
                f"'{path}' has more than {len(frames)} frames to read at once; the limit is {max_frames} frames and "
                f"{MAX_VIDEO_BYTES >> 30} GiB; set a shorter duration",
                code=ErrorCode.out_of_range,
                field="max_frames",
                value=max_frames,
            )
        frames.append(frame)
        times.append(time)
    if not frames:
        raise InputError(
            f"'{path}' has no frame after {start:g} s; give an earlier start",
            code=ErrorCode.out_of_range,
            field="start",
            value=start,
        )
    with open_media(path) as container:
        stream = video_stream(container)
        assert stream is not None
        rate = fps or stream_frame_rate(stream)
    return Video(np.stack(frames), np.array(times), rate)


class DecodedFrame(NamedTuple):
    """A decoded frame before conversion: its time and display duration in seconds, and its stream."""

    time: float
    display_seconds: float
    frame: "VideoFrame"
    stream: "VideoStream"


def decode_frames(path: str | Path, start: float, end: float, threads: int) -> Iterator[DecodedFrame]:
    """Decodes frames, without converting them, from shortly before `start` until `end` (seconds) is passed.

    A seek may land after `start` if the demuxer does not know the key frames (MPEG-TS); the file is then decoded from
    the beginning, as is one in which recordings were joined end to end.
    """
    begin = max(0.0, start - 1)
    raw = _decode_from(path, begin, end, threads)
    first = next(raw, None)
    if begin > 0 and (first is None or first.time > start):
        raw.close()
        yield from _decode_from(path, 0.0, end, threads)
        return
    if first is not None:
        yield first
    yield from raw


def _decode_from(path: str | Path, begin: float, end: float, threads: int) -> Generator[DecodedFrame]:
    """Decodes from about `begin` on; raises `InputError` if the file ends before its declared end."""
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise no_video_track(path)
        check_decoder(path, stream)
        check_frame_size(path, stream.width, stream.height)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        zero, rate = time_origin(container), stream_frame_rate(stream) or 25.0
        last, shown, declared = -math.inf, 1 / rate, declared_duration(stream)
        if begin > 0 and stream.time_base is not None and may_seek(path, container):
            container.seek(int((zero + begin) / stream.time_base), stream=stream)
        for frame, shift in decode_joined(container, stream):
            stamp = frame.pts if frame.pts is not None else frame.dts
            time = max(last, -1 / rate) + 1 / rate
            if stamp is not None and frame.time_base is not None:
                time = float(stamp * frame.time_base) - zero + shift
            if shift != 0:  # a file of several recordings declares the length of one
                declared = 0.0
            if time <= last:
                continue
            last = time
            shown = _display_seconds(frame, declared - time, rate)
            yield DecodedFrame(time, shown, frame, stream)
            if time > end + 1:
                return
        nothing_behind_a_seek = begin > 0 and last == -math.inf
        if not nothing_behind_a_seek and min(end, declared) - (last + shown) > TRUNCATION_TOLERANCE_SECONDS:
            raise InputError(
                f"'{path}' breaks off at {max(last, 0.0):.2f} s of the {declared:.2f} s it declares; copy it again, "
                "or set a duration that ends before",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(path),
            )


def no_video_track(path: str | Path) -> InputError:
    """Returns the error about a file without video."""
    return InputError(
        f"'{path}' has no video track; give a video file",
        code=ErrorCode.unreadable_media,
        field="path",
        value=str(path),
    )


def _display_seconds(frame: "VideoFrame", remaining: float, frame_rate: float) -> float:
    """Returns the seconds that the last frame is displayed: its own duration, but at most the `remaining` time.

    Without a duration of its own, it is the remaining time, at most one second: a truncated file declares too much.
    """
    own = float(frame.duration * frame.time_base) if frame.duration and frame.time_base is not None else 0.0
    if remaining <= 0:
        return own or 1 / frame_rate
    return min(own or TRUNCATION_TOLERANCE_SECONDS, remaining)


def _trim(decoded: Iterator[DecodedFrame], start: float, end: float) -> Iterator[tuple[float, DecodedFrame]]:
    for item in decoded:
        if item.time >= end - 1e-9:
            return
        if item.time >= start - 1e-9:
            yield item.time, item


def _without_long_pauses(
    decoded: Iterator[DecodedFrame], path: str | Path, start: float, end: float
) -> Iterator[DecodedFrame]:
    """Raises `InputError` where one frame would have to be repeated for more than `MAX_PAUSE_SECONDS`."""
    shown_from = shown_until = start
    for item in decoded:
        _check_pause(path, max(start, shown_from), min(end, item.time))
        yield item
        shown_from, shown_until = item.time, item.time + item.display_seconds
    _check_pause(path, max(start, shown_from), min(end, shown_until))


def _check_pause(path: str | Path, begin: float, end: float) -> None:
    if end - begin > MAX_PAUSE_SECONDS:
        raise InputError(
            f"'{path}' shows one frame from {begin:.2f} s to {end:.2f} s; a frame is repeated for up to "
            f"{MAX_PAUSE_SECONDS:g} s; set a duration that ends before it (--max-seconds N), or cut the file there",
            code=ErrorCode.out_of_range,
            field="path",
            value=str(path),
        )


def _resample_nearest(
    decoded: Iterator[DecodedFrame], fps: float, start: float, end: float
) -> Iterator[tuple[float, DecodedFrame]]:
    """Yields the grid times start + k / fps, each with the nearest frame; two decoded frames are in memory."""
    previous: DecodedFrame | None = None
    index = 0
    for item in decoded:
        # Times up to halfway between two timestamps belong to the earlier frame.
        border = item.time if previous is None else (previous.time + item.time) / 2
        while (time := start + index / fps) <= border and time < end - 1e-9:
            yield time, previous or item
            index += 1
        if time >= end - 1e-9:
            return
        previous = item
    if previous is None:
        return
    # A tolerance of a quarter of an output frame: 4.0 s at 25 fps are 100 frames however the timestamps are rounded.
    while (time := start + index / fps) < min(end - 1e-9, previous.time + previous.display_seconds - 0.25 / fps):
        yield time, previous
        index += 1


class FrameConverter:
    """Converts decoded frames to upright RGB arrays of one size."""

    def __init__(self, path: str | Path) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.reformatter = VideoReformatter()
        self.coded_size: tuple[int, int] | None = None

    def to_rgb(self, decoded: DecodedFrame) -> np.ndarray:
        frame = decoded.frame
        size = (frame.width, frame.height)
        if self.coded_size not in (None, size):
            raise InputError(
                f"'{self.path}' changes its size at {decoded.time:.2f} s; give a video of constant size",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(self.path),
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
    """Writes an MP4: H.264 yuv420p tagged BT.709 (limited range) and AAC. Equal input gives an equal file.

    The audio is cut or padded with silence to the length of the video.

    Args:
        path: output file, written completely or not at all.
        frames: (H, W, 3) uint8 RGB frames with even sides, because yuv420p halves the chroma planes.
        fps: frames per second, above 0 and up to 240.
        audio: (samples,) float mono in [-1, 1] at `sample_rate`; None writes no audio track.
        sample_rate: Hz of the audio.
        crf: x264's constant rate factor, 0 (lossless) to 51; 16 is visually indistinguishable from the source.

    Raises:
        InputError: there is no frame, a side is odd, the size changes, a shape or dtype is wrong, or the output cannot
            be written.
    """
    check_frame_rate(fps)
    if audio is not None and (audio.ndim != 1 or not np.isfinite(audio).all()):
        raise InputError(
            f"audio has shape {audio.shape}; give finite mono samples of shape (samples,)",
            code=ErrorCode.shape_mismatch,
            field="audio",
            value=audio.shape,
        )
    with atomic_write(path) as temporary, _writing_errors(path):
        _encode(temporary, frames, Fraction(fps).limit_denominator(1001), audio, sample_rate, crf)


@contextmanager
def _writing_errors(path: str | Path) -> Iterator[None]:
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if describe_os_error(error.errno) is not None:
            raise
        reason = error.strerror or type(error).__name__
        message = f"cannot write '{path}' ({reason}); choose another output, rate or size"
        raise InputError(message, code=ErrorCode.output_exists, field="path", value=str(path)) from error


def _encode(
    path: Path, frames: Iterable[np.ndarray], frame_rate: Fraction, audio: np.ndarray | None, sample_rate: int, crf: int
) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video: Any = None
        audio_track: Any = None
        shape: tuple[int, ...] = ()
        written = count = 0
        for count, frame in enumerate(frames, start=1):
            if video is None:
                shape = checked_frame_shape(frame)
                video = add_video_stream(container, frame_rate, shape, crf)
                audio_track = add_audio_stream(container, sample_rate) if audio is not None else None
            check_same_shape(frame, shape, count - 1)
            container.mux(video.encode(to_yuv_frame(frame, count - 1)))
            if audio is not None:
                until = round(count / frame_rate * sample_rate)
                container.mux(audio_track.encode(audio_frame(audio, written, until, sample_rate)))
                written = until
        if video is None:
            raise InputError(
                "there is no frame to write; give at least one", code=ErrorCode.missing_value, field="frames"
            )
        container.mux(video.encode(None))
        if audio_track is not None:
            container.mux(audio_track.encode(None))

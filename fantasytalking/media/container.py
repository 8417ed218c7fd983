"""Opens untrusted media files: their streams, the start of their time, and errors of one line.

PyAV decodes streams, so that video and audio share one clock, one handling of rotation and one of color. decord decodes
single frames out of order (`fantasytalking.media.frame_access`).
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.limits import MAX_FRAME_PIXELS

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    StreamType = TypeVar("StreamType", AudioStream, VideoStream)

# Containers that cannot refer to other files or addresses, as playlists do.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mp3,wav,w64,flac,ogg,aac,aiff,mpegts,mpeg,flv,asf,"
    "caf,au,ac3,eac3,wv,tta,amr,amrnb,amrwb,dts,dtshd,truehd,mlp,ape,dsf,voc,loas"
)
_READABLE_FORMATS = (
    "MP4, MOV, MKV, WebM, AVI, MPEG, MPEG-TS, FLV, WMV; WAV, FLAC, MP3, M4A, AAC, Ogg, Opus, AC-3, AIFF, AU, CAF, AMR, "
    "DTS, WavPack, TTA, APE"
)


@contextmanager
def media_errors(path: Path) -> Iterator[None]:
    """Converts the decoder's errors to an `InputError` of one line that names the file."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"'{path}' cannot be decoded ({reason}); give an intact video or audio file",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        ) from error


@contextmanager
def open_media(path: str | Path) -> Iterator["InputContainer"]:
    """Opens a file for decoding; decoder errors inside the block become `InputError`.

    Raises:
        InputError: the file is missing, empty, damaged or not a supported media container.
    """
    import av

    path = existing_file(path, "media file")
    if path.stat().st_size == 0:
        raise InputError(
            f"'{path}' is empty (0 bytes); give an intact video or audio file",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        )
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        opened = av.open(str(path.resolve()), options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        is_unlisted = isinstance(error, av.ArgumentError)
        reason = "format not supported" if is_unlisted else error.strerror or type(error).__name__
        raise InputError(
            f"'{path}' cannot be decoded ({reason}); give an intact file of one of these formats: {_READABLE_FORMATS}",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        ) from error
    with media_errors(path), opened as container:
        yield container


def video_stream(container: "InputContainer") -> "VideoStream | None":
    """Returns the default video stream, else the first, without cover images; None if there is none."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return _default_stream([stream for stream in container.streams.video if not stream.disposition & covers])


def audio_stream(container: "InputContainer") -> "AudioStream | None":
    """Returns the default audio stream, else the first; None if there is none."""
    return _default_stream(container.streams.audio)


def _default_stream(streams: "Sequence[StreamType]") -> "StreamType | None":
    """Returns the first of the streams that the file marks as default, as players do; without a mark, the first."""
    from av.stream import Disposition

    marked = (stream for stream in streams if stream.disposition & Disposition.default)
    return next(marked, streams[0] if streams else None)


def check_decoder(path: str | Path, stream: Any) -> None:
    """Raises `InputError` if no decoder exists for the codec of a stream."""
    if stream.codec_context is None:
        raise InputError(
            f"'{path}' has a {stream.type} track whose codec cannot be decoded; convert it first",
            code=ErrorCode.unsupported,
            field=stream.type,
            value=str(path),
        )


def check_time_span(start: float, duration: float | None) -> None:
    """Checks the arguments `start` and `duration`, in seconds, of a segment.

    Raises:
        InputError: `start` is negative or `duration` is not positive, or one of them is not finite.
    """
    if not 0 <= start < math.inf:
        raise InputError(
            f"start is {start}; it must be 0 or more seconds", code=ErrorCode.out_of_range, field="start", value=start
        )
    if duration is not None and not 0 < duration < math.inf:
        raise InputError(
            f"duration is {duration}; it must be a positive number of seconds, or None for the rest",
            code=ErrorCode.out_of_range,
            field="duration",
            value=duration,
        )


def time_origin(container: "InputContainer") -> float:
    """Returns the container time in seconds that counts as 0: the start of the video, else of the audio."""
    for stream in (video_stream(container), audio_stream(container)):
        if stream is not None and stream.start_time is not None and stream.time_base is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0


def declared_duration(stream: Any) -> float:
    """Returns the duration in seconds that a stream declares (in Matroska a tag); 0 if it declares none."""
    if stream.duration is not None and stream.time_base is not None:
        return max(0.0, float(stream.duration * stream.time_base))
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else 0.0


def total_duration(container: "InputContainer", stream: Any) -> float:
    """Returns the duration in seconds that the stream declares, else its container; 0 if neither does."""
    return declared_duration(stream) or max(0.0, (container.duration or 0) / 1e6)


def stream_frame_rate(stream: "VideoStream") -> float:
    """Returns the mean frames per second, from the container's counts or guessed by the demuxer; 0 if unknown."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else 0.0


def display_size(frame: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Returns the displayed (width, height): square pixels, then rotated by the frame's display matrix."""
    ratio = float(stream.sample_aspect_ratio or 1)
    width, height = frame.width, frame.height
    if math.isfinite(ratio) and 0.25 <= ratio <= 4:
        width = max(1, round(width * ratio))
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)


def check_frame_size(path: str | Path, width: int, height: int) -> None:
    """Raises `InputError` if a frame is empty or larger than `MAX_FRAME_PIXELS`."""
    if not 0 < width * height <= MAX_FRAME_PIXELS:
        raise InputError(
            f"'{path}' has frames of {width}x{height} pixels; the limit is {MAX_FRAME_PIXELS} pixels; scale it down",
            code=ErrorCode.out_of_range,
            field="path",
            value=(width, height),
        )

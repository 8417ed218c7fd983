"""Opening media files that nobody has checked yet: what is in them, where their time begins, one-line errors.

PyAV decodes everything, so that pictures and sound share one clock, one idea of rotation and one of colour. (decord was
tried beside it: the same pixels at the same speed, but no sound clock, and it reads the whole index before frame one.)
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 8192 * 4320
"""Pictures larger than this are refused: no camera makes them, and one frame would take 100 MB."""

# Containers that cannot point at other files or addresses, as playlists do.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mp3,wav,w64,flac,ogg,aac,aiff,mpegts,mpeg,flv,asf"


class MediaInfo(NamedTuple):
    """What a media file says of itself; the first frame (or sound block) was decoded, the rest is its own claim."""

    duration: float
    """Seconds of the picture, or of the sound where there is no picture."""
    fps: float
    """Mean frames per second; 0 without a picture."""
    frames: int
    """Frames of the picture (an estimate where the container does not count them); 0 without a picture."""
    width: int
    """Pixels as shown: after rotation, with square pixels; 0 without a picture."""
    height: int
    has_video: bool
    has_audio: bool
    sample_rate: int
    """Samples per second of the sound; 0 without sound."""


@contextmanager
def media_errors(path: Path) -> Iterator[None]:
    """Turns the decoder's errors into an `InputError` of one line that names the file."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"'{path}' cannot be decoded: {reason}; give an intact video or sound file") from error


@contextmanager
def open_media(path: str | Path) -> Iterator["InputContainer"]:
    """Opens a file for decoding; errors of the decoder inside the block become `InputError`.

    Raises:
        InputError: the file is missing, empty, damaged or no known media container.
    """
    import av

    path = existing_file(path, "media file")
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty (0 bytes); give an intact video or sound file")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    with media_errors(path), av.open(str(path.resolve()), options=options, metadata_errors="replace") as container:
        yield container


def video_stream(container: "InputContainer") -> "VideoStream | None":
    """The first moving picture; the cover of an album is none."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((stream for stream in container.streams.video if not stream.disposition & covers), None)


def audio_stream(container: "InputContainer") -> "AudioStream | None":
    """The first sound track."""
    return next(iter(container.streams.audio), None)


def check_decoder(path: str | Path, stream: Any) -> None:
    """Refuses a stream whose code nothing here can decode."""
    if stream.codec_context is None:
        raise InputError(f"'{path}' holds a {stream.type} track in a code that cannot be decoded; convert it first")


def time_origin(container: "InputContainer") -> float:
    """The container's time in seconds that counts as 0: the start of the picture, else of the sound."""
    for stream in (video_stream(container), audio_stream(container)):
        if stream is not None and stream.start_time is not None and stream.time_base is not None:
            return float(stream.start_time * stream.time_base)
    return 0.0


def declared_duration(stream: Any) -> float:
    """Seconds a stream itself says to last (Matroska keeps it in a tag), 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return max(0.0, float(stream.duration * stream.time_base))
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else 0.0


def total_duration(container: "InputContainer", stream: Any) -> float:
    """Seconds the stream is said to last, by itself or else by its container; 0 where neither says."""
    return declared_duration(stream) or max(0.0, (container.duration or 0) / 1e6)


def stream_frame_rate(stream: "VideoStream") -> float:
    """Mean frames per second, from the container's counts, else guessed by the demuxer."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else 0.0


def display_size(frame: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """(width, height) as shown: square pixels, then rotated by the frame's display matrix."""
    ratio = float(stream.sample_aspect_ratio or 1)
    width, height = frame.width, frame.height
    if math.isfinite(ratio) and 0.25 <= ratio <= 4:
        width = max(1, round(width * ratio))
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)


def check_frame_size(path: str | Path, width: int, height: int) -> None:
    """Refuses pictures without area or beyond `MAX_FRAME_PIXELS`."""
    if not 0 < width * height <= MAX_FRAME_PIXELS:
        raise InputError(f"'{path}' is {width}x{height}; the limit is {MAX_FRAME_PIXELS} pixels; scale it down first")


def probe(path: str | Path) -> MediaInfo:
    """Reads a media file's facts and decodes its first frame or sound block to see that it can be.

    Raises:
        InputError: the file is missing, empty, damaged, of unknown kind, too large, or holds neither picture nor sound.
    """
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if video is None and audio is None:
            raise InputError(f"'{path}' holds neither a picture nor a sound track; give a video or sound file")
        for stream in (video, audio):
            if stream is not None:
                check_decoder(path, stream)
        sample_rate = audio.rate if audio is not None else 0
        if video is None:
            assert audio is not None
            if next(container.decode(audio), None) is None:
                raise InputError(f"'{path}' holds a sound track without samples; give an intact file")
            return MediaInfo(total_duration(container, audio), 0.0, 0, 0, 0, False, True, sample_rate)
        check_frame_size(path, video.width, video.height)
        frame = next(container.decode(video), None)
        if frame is None:
            raise InputError(f"'{path}' holds a picture track without frames; give an intact file")
        width, height = display_size(frame, video)
        duration, fps = total_duration(container, video), stream_frame_rate(video)
        frames = video.frames or round(duration * fps)
        return MediaInfo(duration, fps, frames, width, height, True, audio is not None, sample_rate)

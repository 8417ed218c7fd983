"""Reads what a media file declares about itself."""

from pathlib import Path
from typing import NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media.container import (
    audio_stream,
    check_decoder,
    check_frame_size,
    display_size,
    open_media,
    stream_frame_rate,
    total_duration,
    video_stream,
)
from fantasytalking.media.joined_clock import decode_joined


class MediaInfo(NamedTuple):
    """Metadata that a media file declares; only its first frame (or audio block) was decoded."""

    duration: float
    """Seconds of the video, or of the audio if there is no video."""
    fps: float
    """Mean frames per second; 0 without video."""
    frames: int
    """Number of video frames (an estimate if the container does not count them); 0 without video."""
    width: int
    """Displayed width in pixels, after rotation and with square pixels; 0 without video."""
    height: int
    """Displayed height in pixels; 0 without video."""
    has_video: bool
    has_audio: bool
    sample_rate: int
    """Sample rate of the audio in Hz; 0 without audio."""


def probe(path: str | Path) -> MediaInfo:
    """Reads a media file's metadata and decodes its first frame or audio block.

    Raises:
        InputError: the file is missing, empty, damaged, unsupported or too large, or has neither video nor audio.
    """
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if video is None and audio is None:
            raise _without_content(path, "neither a video nor an audio track")
        for stream in (video, audio):
            if stream is not None:
                check_decoder(path, stream)
        sample_rate = audio.rate if audio is not None else 0
        if video is None:
            assert audio is not None
            if next(decode_joined(container, audio, lambda error, packet: None), None) is None:
                raise _without_content(path, "an audio track without samples that can be decoded")
            return MediaInfo(total_duration(container, audio), 0.0, 0, 0, 0, False, True, sample_rate)
        check_frame_size(path, video.width, video.height)
        frame = next(container.decode(video), None)
        if frame is None:
            raise _without_content(path, "a video track without frames")
        width, height = display_size(frame, video)
        duration, fps = total_duration(container, video), stream_frame_rate(video)
        frames = video.frames or round(duration * fps)
        return MediaInfo(duration, fps, frames, width, height, True, audio is not None, sample_rate)


def _without_content(path: str | Path, content: str) -> InputError:
    return InputError(
        f"'{path}' has {content}; give an intact video or audio file",
        code=ErrorCode.unreadable_media,
        field="path",
        value=str(path),
    )

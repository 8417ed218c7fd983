"""Reads chosen frames of a video: few of them, in memory, without converting the frames between them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_VIDEO_BYTES
from fantasytalking.media.container import check_decoder, check_frame_size, declared_duration, open_media, time_origin
from fantasytalking.media.container import video_stream as first_video_stream
from fantasytalking.media.joined_clock import JoinedClock
from fantasytalking.media.video import FrameConverter, decode_frames, no_video_track

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

RANDOM_ACCESS_SECONDS = 30.0
"""Videos from this length on are decoded by decord from the key frames before the chosen frames. In shorter ones most
frames lie between a key frame and a chosen frame, and streaming is as fast."""

# decord's pixels equal PyAV's to the bit for these formats with square pixels; its 10-bit conversion rounds otherwise,
# and it ignores the shape of a pixel. Other containers lack presentation times before decoding.
_DECORD_PIXEL_FORMATS = frozenset(["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
_DECORD_CONTAINERS = frozenset(["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"])


def read_frames_at(path: str | Path, times: Sequence[float]) -> NDArray[np.uint8]:
    """Reads the frames whose timestamps are nearest to chosen times.

    Videos of at least `RANDOM_ACCESS_SECONDS` are read by decord if their container is MP4, MOV, Matroska or WebM,
    their pixels are square and 8-bit YUV, and their timestamps increase; all others are streamed by PyAV. The pixels
    are the same.

    Args:
        path: video file.
        times: seconds from the first frame, in increasing order; of two equally near frames the earlier is read. Times
            after the last frame read the last frame.

    Returns:
        (N, H, W, 3) uint8 RGB, as `iter_frames` returns them.

    Raises:
        InputError: the times are empty, negative or not increasing, the frames would take more than `MAX_VIDEO_BYTES`,
            or the file has no video or is damaged.
    """
    chosen = np.asarray(times, np.float64)
    if not len(chosen) or not np.isfinite(chosen).all() or chosen[0] < 0 or (np.diff(chosen) < 0).any():
        raise InputError(
            f"times is {list(times)}; give one or more seconds, 0 or more, in increasing order",
            code=ErrorCode.out_of_range,
            field="times",
            value=list(times),
        )
    with open_media(path) as container:
        stream = first_video_stream(container)
        if stream is None:
            raise no_video_track(path)
        check_decoder(path, stream)
        check_frame_size(path, stream.width, stream.height)
        size = 3 * stream.width * stream.height * len(chosen)
        if size > MAX_VIDEO_BYTES:
            raise InputError(
                f"{len(chosen)} frames of '{path}' take {size / 2**30:.1f} GiB; the limit is "
                f"{MAX_VIDEO_BYTES >> 30} GiB; read fewer frames",
                code=ErrorCode.out_of_range,
                field="times",
                value=len(chosen),
            )
        stamps = _increasing_timestamps(container, stream) if _supports_decord(container, stream) else None
    if stamps is None:
        return _stream_frames(path, chosen)
    indices = np.searchsorted((stamps[1:] + stamps[:-1]) / 2, chosen, side="left")
    return _random_access(Path(path), indices, len(stamps))


def _supports_decord(container: "InputContainer", stream: "VideoStream") -> bool:
    square = stream.sample_aspect_ratio in (None, 0, 1)
    return (
        container.format.name in _DECORD_CONTAINERS
        and stream.codec_context.pix_fmt in _DECORD_PIXEL_FORMATS
        and square
        and len(container.streams.video) == 1  # decord chooses among several by rules of its own
        and declared_duration(stream) >= RANDOM_ACCESS_SECONDS
    )


def _increasing_timestamps(container: "InputContainer", stream: "VideoStream") -> NDArray[np.float64] | None:
    """Reads the timestamps of all frames without decoding; None if one is missing, two are equal, or they restart."""
    base, origin, clock = stream.time_base, time_origin(container), JoinedClock([stream], joins_forward=False)
    stamps: list[int | None] = []
    for packet in container.demux(stream):
        if clock.shift(packet) != 0:  # recordings were joined end to end
            return None
        if packet.size:
            stamps.append(packet.pts)
    if base is None or not stamps or any(stamp is None for stamp in stamps):
        return None
    ordered = np.array(sorted(float(stamp * base) - origin for stamp in stamps if stamp is not None))
    return ordered if (np.diff(ordered) > 0).all() else None


def _random_access(path: Path, indices: NDArray[np.int64], num_frames: int) -> NDArray[np.uint8]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != num_frames:
            raise decord.DECORDError(f"{len(reader)} of {num_frames} frames are indexed")
        frames: NDArray[np.uint8] = reader.get_batch(indices.tolist()).asnumpy()
    except decord.DECORDError as error:
        raise InputError(
            f"'{path}' cannot be decoded ({str(error).splitlines()[0]}); give an intact video",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        ) from error
    return frames


def _stream_frames(path: str | Path, times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Decodes from the beginning and converts the chosen frames alone."""
    converter = FrameConverter(path)
    frames: list[NDArray[np.uint8]] = []
    previous = None
    for item in decode_frames(path, 0.0, math.inf, threads=1):
        border = item.time if previous is None else (previous.time + item.time) / 2
        while len(frames) < len(times) and times[len(frames)] <= border:
            frames.append(converter.to_rgb(previous or item))
        if len(frames) == len(times):
            break
        previous = item
    if previous is not None:
        frames += [converter.to_rgb(previous)] * (len(times) - len(frames))
    if not frames:
        raise no_video_track(path)
    return np.stack(frames)

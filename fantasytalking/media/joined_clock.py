"""Decodes tracks on one continuous clock where recordings were joined end to end and their time stamps jump."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fantasytalking.common.limits import MAX_PAUSE_SECONDS
from fantasytalking.media.container import audio_stream, open_media, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

JOIN_SECONDS, SOUND_JOIN_SECONDS = 0.5, 0.1
"""Backward jumps of a time stamp from which another recording begins: in files with a picture, and with sound alone."""
_JOINABLE_FORMATS = frozenset(["mpegts", "mpeg", "ogg", "flac"])
"""Formats whose files are joined by appending one to another, and in which a seek goes by the time stamps alone."""
_MAX_READ_FAILURES = 3
"""Failures in a row, without a packet between them, after which the rest of a file counts as unreadable."""

_CHECKED_CODECS = frozenset(["flac", "wavpack", "tta"])
"""Codecs with a checksum per block. Without it, damage is decoded to noise."""

DamageCallback = Callable[[Exception, "Packet | None"], None]
"""Called with an error of the decoder and the packet that caused it; None if the file could not be read there."""


class JoinedClock:
    """Computes how far the time stamps of each recording in a file are to be moved.

    All tracks of a recording move by the same time: that between its first packet and the end of what came before.
    Picture and sound stay in sync, and no frame is lost. Packets of two tracks do not change to the next recording at
    one place of the file: a track without a gap is still in the one before.
    """

    def __init__(self, streams: list[Any], *, joins_forward: bool) -> None:
        self._join_seconds = JOIN_SECONDS if any(stream.type == "video" for stream in streams) else SOUND_JOIN_SECONDS
        self._joins_forward = joins_forward
        self._units = {stream.index: float(stream.time_base or 0) for stream in streams}
        self._shifts = [0.0]
        self._recordings = {stream.index: 0 for stream in streams}
        self._last: dict[int, tuple[float, float]] = {}
        self._end = -math.inf

    def shift(self, packet: "Packet") -> float:
        """Returns the seconds to add to the time stamps of a packet; the packets of a file come in its order."""
        index = packet.stream.index  # the last, empty packets have no stream_index
        shown = packet.pts
        stamp = shown if packet.dts is None else packet.dts
        if stamp is None:
            return self._shifts[self._recordings[index]]
        time, unit, last = stamp * self._units[index], self._units[index], self._last.get(index)
        self._recordings[index] = self._recording(time, index)
        if self._recordings[index] == len(self._shifts):
            self._shifts.append(self._end - time)
        shift = self._shifts[self._recordings[index]]
        duration = (packet.duration or 0) * unit or (0.0 if last is None else min(max(0.0, time - last[0]), 1.0))
        self._end = max(self._end, (time if shown is None else max(time, shown * unit)) + shift + duration)
        self._last[index] = (time, time + duration)
        return shift

    def _recording(self, time: float, index: int) -> int:
        """Returns the number of the recording of a packet; one more than there are if it begins another."""
        current, newest = self._recordings[index], len(self._shifts) - 1
        if index not in self._last:
            return newest
        last, end = self._last[index]
        if current < newest:
            return current if abs(time - end) < SOUND_JOIN_SECONDS else newest
        jumps_ahead = self._joins_forward and time + self._shifts[current] > self._end + MAX_PAUSE_SECONDS
        return current + 1 if time < last - self._join_seconds or jumps_ahead else current


def decode_joined(
    container: "InputContainer", stream: Any, on_damage: DamageCallback | None = None
) -> Iterator[tuple[Any, float]]:
    """Decodes a track; yields its frames and the seconds to add to their time stamps.

    Args:
        container: the file, at its beginning or behind a seek.
        stream: the track.
        on_damage: called for what cannot be decoded, which is then skipped; None raises the decoder's error.
    """
    streams = [one for one in (video_stream(container), audio_stream(container)) if one is not None]
    clock = JoinedClock(streams, joins_forward=container.format.name in _JOINABLE_FORMATS)
    if stream.codec_context.name in _CHECKED_CODECS:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    shift = 0.0
    for packet in _packets(container, streams, on_damage):
        moved = clock.shift(packet)
        if packet.stream.index != stream.index:
            continue
        if moved != shift and stream.type == "video":  # its decoder delays frames, which belong to the recording before
            yield from ((frame, shift) for frame in _decode(stream, None, on_damage))
            stream.codec_context.flush_buffers()
        shift = moved
        yield from ((frame, shift) for frame in _decode(stream, packet, on_damage))


def _packets(container: "InputContainer", streams: list[Any], on_damage: DamageCallback | None) -> "Iterator[Packet]":
    import av

    failures = 0
    while failures <= _MAX_READ_FAILURES:
        try:
            for packet in container.demux(streams):
                failures = 0
                yield packet
            return
        except av.FFmpegError as error:
            if on_damage is None or isinstance(error, MemoryError):
                raise
            on_damage(error, None)
            failures += 1


def _decode(stream: Any, packet: "Packet | None", on_damage: DamageCallback | None) -> list[Any]:
    import av

    try:
        return list(stream.decode(packet))
    except av.FFmpegError as error:
        if on_damage is None or isinstance(error, MemoryError | EOFError):
            raise
        on_damage(error, packet)
        return []


def may_seek(path: str | Path, container: "InputContainer") -> bool:
    """Returns whether a seek in a file finds a time: False if recordings with time stamps of their own were joined."""
    if container.format.name not in _JOINABLE_FORMATS:
        return True
    state = Path(path).stat()
    return not _is_joined(str(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _is_joined(path: str, modified: int, size: int) -> bool:
    """Reads the packets of a file, without decoding them; the result is kept for as long as the file is the same."""
    with open_media(path) as container:
        streams = [one for one in (video_stream(container), audio_stream(container)) if one is not None]
        clock = JoinedClock(streams, joins_forward=True)
        packets = _packets(container, streams, lambda error, packet: None)
        return any(clock.shift(packet) != 0 for packet in packets)

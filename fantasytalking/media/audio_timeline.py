"""Places decoded blocks of sound on a time line, and counts what is missing between them."""

import functools
import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_LOST_AUDIO_SHARE

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.packet import Packet

logger = logging.getLogger(__name__)

GAP_SECONDS = 0.02
"""Time stamps are rounded, in some containers to milliseconds; only larger differences can be gaps."""
_LOOKAHEAD_SECONDS = 1.0
"""Seconds of decoded sound whose time stamps have to agree on a gap. If one returns, they only jitter."""
_LOOKAHEAD_BLOCKS = 64
_STAMP_SECONDS = 0.002
"""Rounding of time stamps to milliseconds."""
_DAMAGE_SECONDS = 0.005
"""Differences of time stamps that are gaps behind damage."""
_TARGET_BLOCKS = 8
"""Blocks whose median is the time after a gap if the time stamps jitter."""
_JITTER_DECAY = 0.98
"""Factor per block by which the jitter that was seen is forgotten."""


class Block(NamedTuple):
    """A decoded block of sound."""

    frame: "AudioFrame"
    time: float | None
    """Seconds of its time stamp; None if it has none."""
    lost_packets: int
    """Number of packets before it that could not be decoded."""


class PlacedBlock(NamedTuple):
    """A block and where it begins."""

    frame: "AudioFrame"
    time: float | None
    """Seconds at which it begins; None if it follows the block before without a gap."""
    gap: float
    """Seconds of silence before it: positive behind a pause, negative if it overlaps with what came before."""
    lost_packets: int


class _Waiting(NamedTuple):
    block: Block
    offset: float
    """Its time stamp minus the duration of all blocks before: constant in contiguous sound; NaN if it has none."""


def place_blocks(blocks: Iterable[Block], *, has_picture: bool) -> Iterator[PlacedBlock]:
    """Places blocks by their time stamps, without following those that jitter.

    A block begins a new run where its time stamp differs by more than `GAP_SECONDS` from the end of the block before
    and so do those of all blocks of the next second, in the same direction. The duration of its samples places every
    other block. Time stamps that return by less than it takes for another recording are followed if there is a picture,
    which stays in sync, and ignored if there is none, so that no sound is lost.
    """
    placer = _Placer(has_picture)
    for block in blocks:
        yield from placer.add(block)
    yield from placer.finish()


class _Placer:
    def __init__(self, has_picture: bool) -> None:
        self._has_picture = has_picture
        self._waiting: deque[_Waiting] = deque()
        self._waiting_seconds = 0.0
        self._decoded = 0.0
        self._offset: float | None = None
        self._jitter = 0.0
        self._moved = 0.0

    def add(self, block: Block) -> Iterator[PlacedBlock]:
        offset = math.nan if block.time is None else block.time - self._decoded
        self._waiting.append(_Waiting(block, offset))
        self._decoded += _duration(block)
        self._waiting_seconds += _duration(block)
        while self._waiting_seconds > _LOOKAHEAD_SECONDS or len(self._waiting) > _LOOKAHEAD_BLOCKS:
            yield self._place_next()

    def finish(self) -> Iterator[PlacedBlock]:
        while self._waiting:
            yield self._place_next()

    def _place_next(self) -> PlacedBlock:
        block, own = self._waiting[0].block, self._waiting[0].offset + self._moved
        begins, gap = False, 0.0
        if self._offset is None:
            self._offset = 0.0 if math.isnan(own) else _settled(self._offsets()) if self._has_picture else own
            begins = True
        elif not math.isnan(own):
            begins, gap = self._step(own)
        elapsed = self._decoded - self._waiting_seconds
        self._waiting.popleft()
        self._waiting_seconds = self._waiting_seconds - _duration(block) if self._waiting else 0.0
        return PlacedBlock(block.frame, self._offset + elapsed if begins else None, gap, block.lost_packets)

    def _offsets(self) -> list[float]:
        return [one.offset + self._moved for one in self._waiting if not math.isnan(one.offset)]

    def _step(self, own: float) -> tuple[bool, float]:
        """Decides whether the next block begins a run, and returns the gap before it."""
        assert self._offset is not None
        difference = own - self._offset
        tolerance = max(GAP_SECONDS, self._jitter) if not self._waiting[0].block.lost_packets else _DAMAGE_SECONDS
        offsets = self._offsets() if abs(difference) > tolerance else [self._offset]
        if min(offsets) - self._offset <= tolerance and max(offsets) - self._offset >= -tolerance:
            self._jitter = max(abs(difference), self._jitter * _JITTER_DECAY)
            return False, 0.0
        gap = _settled(offsets) - self._offset
        if gap < 0 and not self._has_picture:
            self._moved -= gap
            return False, 0.0
        self._offset += gap
        self._jitter = 0.0
        return True, gap


def _duration(block: Block) -> float:
    return block.frame.samples / block.frame.sample_rate


def _settled(offsets: list[float]) -> float:
    """Returns the offset of the first block; the median of the first few if they neither only rise nor only fall."""
    first = offsets[:_TARGET_BLOCKS]
    steps = [later - earlier for earlier, later in itertools.pairwise(first)]
    if all(step >= -_STAMP_SECONDS for step in steps) or all(step <= _STAMP_SECONDS for step in steps):
        return first[0]
    return sorted(first)[len(first) // 2]


class AudioLosses:
    """Counts the seconds of a sound that are missing, notes them once and refuses it if they are too many."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._damaged, self._skipped, self._missing, self._pauses, self._overlaps = 0.0, 0.0, 0.0, 0.0, 0.0
        self._is_unreadable = False
        self.pending_packets = 0
        """Number of packets since the last block that could not be decoded."""
        self._pending_seconds = 0.0
        self.reason = ""
        """The decoder's words about the last error."""

    def on_damage(self, error: Exception, packet: "Packet | None") -> None:
        """Remembers that something could not be decoded; the time stamps behind it tell how long it was."""
        self.pending_packets += 1
        self.reason = getattr(error, "strerror", "") or type(error).__name__
        if packet is not None and packet.duration and packet.time_base is not None:
            self._pending_seconds += float(packet.duration * packet.time_base)

    def take_pending(self) -> int:
        """Returns the number of packets since the last call that could not be decoded."""
        pending, self.pending_packets, self._pending_seconds = self.pending_packets, 0, 0.0
        return pending

    def on_unplaced(self, seconds: float) -> None:
        """Counts what could not be decoded and has no time stamps, so that it leaves no gap."""
        self._skipped += seconds

    def on_gap(self, seconds: float, is_lost: bool) -> None:
        """Counts a gap of the time stamps that was filled, or an overlap that was left out."""
        if seconds < 0:
            self._overlaps -= seconds
        elif is_lost:
            self._damaged += seconds
        else:
            self._pauses += seconds

    def on_end(self, missing: float) -> None:
        """Counts what is missing at the end: by the length that the file states, else what could not be decoded."""
        self._missing = missing if missing > 0 else self._pending_seconds
        self._is_unreadable = self.pending_packets > 0 and not self._missing

    def check(self, total: float) -> None:
        """Raises `InputError` if more than `MAX_LOST_AUDIO_SHARE` of `total` seconds is lost."""
        lost = self._damaged + self._skipped + self._missing
        total = max(total + self._skipped, lost)
        if lost > MAX_LOST_AUDIO_SHARE * total:
            raise InputError(
                f"{lost:.2f} s of the {total:.2f} s of sound in '{self._path}' are damaged or missing "
                f"({lost / total:.0%}); the limit is {MAX_LOST_AUDIO_SHARE:.0%}; copy the file again, or set a "
                "duration without the damage (--max-seconds N)",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(self._path),
            )

    def note(self) -> None:
        """Logs, once per file, what is silent or was left out."""
        if self._damaged:
            note_once(self._path, "damaged", f"{self._damaged:.2f} s of sound are damaged and silent")
        if self._skipped:
            note_once(self._path, "skipped", f"about {self._skipped:.2f} s of sound are damaged and left out")
        if self._missing:
            note_once(self._path, "missing", f"{self._missing:.2f} s of sound are missing at its end")
        if self._is_unreadable:
            note_once(self._path, "unreadable", f"it ends with something that cannot be decoded ({self.reason})")
        if self._pauses:
            message = f"its time stamps leave pauses of {self._pauses:.2f} s in all, which are silent"
            note_once(self._path, "pauses", message)
        if self._overlaps:
            message = f"its time stamps return by {self._overlaps:.2f} s in all; the sound that overlaps is left out"
            note_once(self._path, "overlaps", message)


def note_once(path: str | Path, kind: str, message: str) -> None:
    """Logs a note about a file, the first of its kind per process: a file is read at several rates and in segments."""
    state = Path(path).stat()
    noted = _notes(str(path), kind, state.st_mtime_ns, state.st_size)
    if not noted:
        noted.append(message)
        logger.warning("note: '%s': %s", path, message)


@functools.lru_cache(maxsize=1024)
def _notes(path: str, kind: str, modified: int, size: int) -> list[str]:
    """Returns the notes of a kind that were logged about a version of a file, to be extended."""
    return []

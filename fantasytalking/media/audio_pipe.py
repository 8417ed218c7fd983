"""Sound that comes through a pipe, as it comes: WAV, or bare samples (16-bit little-endian, mono, 16 kHz).

What begins with RIFF is a WAV (16-bit or 32-bit float, any rate and channel count, of any declared length: one that is
written while it is being sent does not know its own). Everything else is taken for bare samples, unless it begins as a
known file of another kind does.
"""

import struct
from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError

BARE_RATE = 16_000
BLOCK_SECONDS = 0.1
CURE = "send it through: ffmpeg -i SOUND -f wav -c:a pcm_s16le -"

_MAX_CHUNK = 1 << 20
"""Bytes of notes before the samples of a WAV."""
_ENDLESS = 0x7FFF0000
"""Lengths from here on, and 0, are what senders write that do not know the length."""
_OTHER_KINDS = {b"ID3": "an mp3", b"OggS": "an Ogg", b"fLaC": "a FLAC", b"\x1aE\xdf\xa3": "a WebM", b"FORM": "an AIFF"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class PipedSound(NamedTuple):
    """A sound of which the samples are still to come."""

    rate: int
    """Samples a second."""
    blocks: Iterator[NDArray[np.float32]]
    """(samples,) each, mono, in [-1, 1]; whatever has come, at most `BLOCK_SECONDS` of it."""


class _Coding(NamedTuple):
    """How samples stand in the pipe."""

    rate: int
    channels: int
    kind: np.dtype
    scale: float


def open_pipe(stream: BufferedReader) -> PipedSound:
    """Waits for the first bytes and tells what they begin.

    Raises:
        InputError: nothing came, or no WAV that can be read; from the blocks: values that are no numbers.
    """
    begin = _read(stream, 12)
    if not begin:
        raise InputError(f"no sound came through the pipe; {CURE}")
    for magic, name in _OTHER_KINDS.items():
        if begin.startswith(magic):
            raise InputError(f"{name} file came through the pipe, which takes WAV or 16-bit samples; {CURE}")
    if begin[4:8] == b"ftyp":
        raise InputError(f"an mp4 file came through the pipe, which takes WAV or 16-bit samples; {CURE}")
    if not begin.startswith(b"RIFF"):
        coding = _Coding(BARE_RATE, 1, np.dtype("<i2"), 1 / 32768)
        return PipedSound(BARE_RATE, _blocks(stream, coding, None, begin))
    if begin[8:] != b"WAVE":
        raise InputError(f"the pipe begins as a RIFF file that is no WAV; {CURE}")
    coding, length = _wave_header(stream)
    return PipedSound(coding.rate, _blocks(stream, coding, length, b""))


def _wave_header(stream: BufferedReader) -> tuple[_Coding, int | None]:
    """Reads up to the samples; gives their coding and, where it is known, their length in bytes."""
    coding: _Coding | None = None
    while True:
        header = _read(stream, 8)
        if len(header) < 8:
            raise InputError(f"the WAV in the pipe ends before its samples; {CURE}")
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            if coding is None:
                raise InputError(f"the WAV in the pipe does not tell how its samples are coded; {CURE}")
            return coding, size if 0 < size < _ENDLESS else None
        if size > _MAX_CHUNK:
            raise InputError(f"the WAV in the pipe has {size} bytes before its samples; at most {_MAX_CHUNK}; {CURE}")
        chunk = _read(stream, size + size % 2)
        if name == b"fmt ":
            coding = _coding(chunk)


def _coding(chunk: bytes) -> _Coding:
    if len(chunk) < 16:
        raise InputError(f"the WAV in the pipe has a damaged header; {CURE}")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    kinds = {(_PCM, 16): ("<i2", 1 / 32768), (_FLOAT, 32): ("<f4", 1.0)}
    if (tag, bits) not in kinds or not 1 <= channels <= 64 or not 1000 <= rate <= 192_000:
        raise InputError(
            f"the WAV in the pipe has coding {tag} with {bits} bits, {channels} channels, {rate} Hz; 16-bit integers "
            f"or 32-bit floats, up to 64 channels and 1000 to 192000 Hz can be read; {CURE}"
        )
    kind, scale = kinds[tag, bits]
    return _Coding(rate, channels, np.dtype(kind), scale)


def _blocks(stream: BufferedReader, coding: _Coding, length: int | None, begun: bytes) -> Iterator[NDArray[np.float32]]:
    """Samples as they come; a last sample that is not whole is left out."""
    size = coding.kind.itemsize * coding.channels
    most = size * max(1, round(coding.rate * BLOCK_SECONDS))
    left, held, ended = length, begun, False
    while not ended:
        wanted = most - len(held) if left is None else min(most - len(held), left)
        more = stream.read1(wanted) if wanted else b""
        ended = not more
        left = None if left is None else left - len(more)
        held += more
        whole = len(held) - len(held) % size
        if whole:
            yield _mono(held[:whole], coding)
        held = held[whole:]


def _mono(data: bytes, coding: _Coding) -> NDArray[np.float32]:
    values = np.frombuffer(data, coding.kind).astype(np.float32).reshape(-1, coding.channels) * coding.scale
    if not np.isfinite(values).all():
        raise InputError(f"the sound in the pipe holds samples that are no numbers; {CURE}")
    return np.clip(values.mean(axis=1, dtype=np.float32), -1, 1)


def _read(stream: BufferedReader, count: int) -> bytes:
    """`count` bytes, or fewer at the end."""
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data

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

RAW_SAMPLE_RATE = 16_000
BLOCK_SECONDS = 0.1
PIPE_HINT = "send it through: ffmpeg -i SOUND -f wav -c:a pcm_s16le -"

_MAX_CHUNK_BYTES = 1 << 20
"""Bytes of notes before the samples of a WAV."""
_UNKNOWN_LENGTH = 0x7FFF0000
"""Lengths from here on, and 0, are what senders write that do not know the length."""
_UNSUPPORTED_MAGIC = {
    b"ID3": "an mp3",
    b"OggS": "an Ogg",
    b"fLaC": "a FLAC",
    b"\x1aE\xdf\xa3": "a WebM",
    b"FORM": "an AIFF",
}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class PipedAudio(NamedTuple):
    """A sound of which the samples are still to come."""

    sample_rate: int
    """Samples a second."""
    blocks: Iterator[NDArray[np.float32]]
    """(samples,) each, mono, in [-1, 1]; whatever has come, at most `BLOCK_SECONDS` of it."""


class _SampleFormat(NamedTuple):
    """How samples stand in the pipe."""

    sample_rate: int
    channels: int
    dtype: np.dtype
    scale: float


def open_audio_pipe(stream: BufferedReader) -> PipedAudio:
    """Waits for the first bytes and tells what they begin.

    Raises:
        InputError: nothing came, or no WAV that can be read; from the blocks: values that are no numbers.
    """
    begin = _read_up_to(stream, 12)
    if not begin:
        raise InputError(f"no sound came through the pipe; {PIPE_HINT}")
    for magic, name in _UNSUPPORTED_MAGIC.items():
        if begin.startswith(magic):
            raise InputError(f"{name} file came through the pipe, which takes WAV or 16-bit samples; {PIPE_HINT}")
    if begin[4:8] == b"ftyp":
        raise InputError(f"an mp4 file came through the pipe, which takes WAV or 16-bit samples; {PIPE_HINT}")
    if not begin.startswith(b"RIFF"):
        coding = _SampleFormat(RAW_SAMPLE_RATE, 1, np.dtype("<i2"), 1 / 32768)
        return PipedAudio(RAW_SAMPLE_RATE, _blocks(stream, coding, None, begin))
    if begin[8:] != b"WAVE":
        raise InputError(f"the pipe begins as a RIFF file that is no WAV; {PIPE_HINT}")
    coding, length = _read_wav_header(stream)
    return PipedAudio(coding.sample_rate, _blocks(stream, coding, length, b""))


def _read_wav_header(stream: BufferedReader) -> tuple[_SampleFormat, int | None]:
    """Reads up to the samples; gives their coding and, where it is known, their length in bytes."""
    coding: _SampleFormat | None = None
    while True:
        header = _read_up_to(stream, 8)
        if len(header) < 8:
            raise InputError(f"the WAV in the pipe ends before its samples; {PIPE_HINT}")
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            if coding is None:
                raise InputError(f"the WAV in the pipe does not tell how its samples are coded; {PIPE_HINT}")
            return coding, size if 0 < size < _UNKNOWN_LENGTH else None
        if size > _MAX_CHUNK_BYTES:
            raise InputError(
                f"the WAV in the pipe has {size} bytes before its samples; at most {_MAX_CHUNK_BYTES}; {PIPE_HINT}"
            )
        chunk = _read_up_to(stream, size + size % 2)
        if name == b"fmt ":
            coding = _parse_format_chunk(chunk)


def _parse_format_chunk(chunk: bytes) -> _SampleFormat:
    if len(chunk) < 16:
        raise InputError(f"the WAV in the pipe has a damaged header; {PIPE_HINT}")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    kinds = {(_PCM, 16): ("<i2", 1 / 32768), (_FLOAT, 32): ("<f4", 1.0)}
    if (tag, bits) not in kinds or not 1 <= channels <= 64 or not 1000 <= rate <= 192_000:
        raise InputError(
            f"the WAV in the pipe has coding {tag} with {bits} bits, {channels} channels, {rate} Hz; 16-bit integers "
            f"or 32-bit floats, up to 64 channels and 1000 to 192000 Hz can be read; {PIPE_HINT}"
        )
    kind, scale = kinds[tag, bits]
    return _SampleFormat(rate, channels, np.dtype(kind), scale)


def _blocks(
    stream: BufferedReader, sample_format: _SampleFormat, length: int | None, prefix: bytes
) -> Iterator[NDArray[np.float32]]:
    """Samples as they come; a last sample that is not whole is left out."""
    size = sample_format.dtype.itemsize * sample_format.channels
    most = size * max(1, round(sample_format.sample_rate * BLOCK_SECONDS))
    left, held, ended = length, prefix, False
    while not ended:
        wanted = most - len(held) if left is None else min(most - len(held), left)
        more = stream.read1(wanted) if wanted else b""
        ended = not more
        left = None if left is None else left - len(more)
        held += more
        whole = len(held) - len(held) % size
        if whole:
            yield _to_mono(held[:whole], sample_format)
        held = held[whole:]


def _to_mono(data: bytes, sample_format: _SampleFormat) -> NDArray[np.float32]:
    values = (
        np.frombuffer(data, sample_format.dtype).astype(np.float32).reshape(-1, sample_format.channels)
        * sample_format.scale
    )
    if not np.isfinite(values).all():
        raise InputError(f"the sound in the pipe holds samples that are no numbers; {PIPE_HINT}")
    return np.clip(values.mean(axis=1, dtype=np.float32), -1, 1)


def _read_up_to(stream: BufferedReader, count: int) -> bytes:
    """`count` bytes, or fewer at the end."""
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data

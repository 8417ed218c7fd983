"""Reads audio from a pipe as it arrives: WAV, or raw samples (16-bit little-endian, mono, 16 kHz).

Data that starts with RIFF is a WAV (16-bit integers or 32-bit floats, any rate and channel count). Its declared length
may be wrong, because a WAV that is written while it is sent does not know its own. All other data is read as raw
samples, unless it starts with the signature of a known file format.
"""

import logging
import struct
from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from fantasytalking.media.downmix import RunningMix, single_channel_note

logger = logging.getLogger(__name__)

RAW_SAMPLE_RATE = 16_000
BLOCK_SECONDS = 0.1
PIPE_HINT = "convert it with: ffmpeg -i AUDIO -f wav -c:a pcm_s16le -"

_PIPE_FIELD = "pipe"
_MAX_CHUNK_BYTES = 1 << 20
"""Maximum size of a WAV chunk before the samples."""
_MAX_CHANNELS = 64
_UNKNOWN_LENGTH = 0x7FFF0000
"""Senders that do not know the length declare this length, a larger one, or 0."""
_UNSUPPORTED_MAGIC = {
    b"ID3": "MP3",
    b"OggS": "Ogg",
    b"fLaC": "FLAC",
    b"\x1aE\xdf\xa3": "WebM",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"wvpk": "WavPack",
    b"TTA1": "TTA",
    b"MAC ": "APE",
    b"#!AMR": "AMR",
    b"RF64": "RF64",
}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LOW_FREQUENCY = 8
"""Bit of a WAV's channel mask. The channels stand in the order of its bits."""


class PipedAudio(NamedTuple):
    """Audio whose samples have not arrived yet."""

    sample_rate: int
    """Hz."""
    blocks: Iterator[NDArray[np.float32]]
    """(samples,) float32 blocks, mono, in [-1, 1]; each holds what has arrived, at most `BLOCK_SECONDS`."""


class _SampleFormat(NamedTuple):
    """Encoding of the samples in the pipe."""

    sample_rate: int
    channels: int
    dtype: np.dtype
    scale: float
    low_frequency: tuple[int, ...] = ()
    """Index of the channel for low-frequency effects."""


def open_audio_pipe(stream: BufferedReader) -> PipedAudio:
    """Waits for the first bytes and detects their format.

    Raises:
        InputError: no data arrived, or the format is not supported; while the blocks are read: a sample is NaN or
            infinite.
    """
    begin = _read_up_to(stream, 12)
    if not begin:
        raise InputError(
            f"no audio arrived through the pipe; {PIPE_HINT}", code=ErrorCode.missing_value, field=_PIPE_FIELD
        )
    for magic, name in _UNSUPPORTED_MAGIC.items():
        if begin.startswith(magic):
            raise _unsupported_format(name)
    if begin[4:8] == b"ftyp":
        raise _unsupported_format("MP4")
    if not begin.startswith(b"RIFF"):
        coding = _SampleFormat(RAW_SAMPLE_RATE, 1, np.dtype("<i2"), 1 / 32768)
        return PipedAudio(RAW_SAMPLE_RATE, _blocks(stream, coding, None, begin))
    if begin[8:] != b"WAVE":
        raise _unsupported_format(f"RIFF {begin[8:].decode('ascii', 'replace').strip()}")
    coding, length = _read_wav_header(stream)
    return PipedAudio(coding.sample_rate, _blocks(stream, coding, length, b""))


def _unsupported_format(name: str) -> InputError:
    return InputError(
        f"the pipe contains a file of format {name}; WAV and raw 16-bit samples are supported; {PIPE_HINT}",
        code=ErrorCode.unsupported,
        field=_PIPE_FIELD,
        value=name,
    )


def _malformed_wav(field: str, problem: str, value: object = None) -> InputError:
    return InputError(
        f"the WAV in the pipe {problem}; {PIPE_HINT}", code=ErrorCode.malformed_file, field=field, value=value
    )


def _read_wav_header(stream: BufferedReader) -> tuple[_SampleFormat, int | None]:
    """Reads up to the samples; returns their encoding and, if it is known, their length in bytes."""
    coding: _SampleFormat | None = None
    while True:
        header = _read_up_to(stream, 8)
        if len(header) < 8:
            raise _malformed_wav("data", "ends before its samples")
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            if coding is None:
                raise _malformed_wav("fmt ", "does not declare the encoding of its samples")
            return coding, size if 0 < size < _UNKNOWN_LENGTH else None
        if size > _MAX_CHUNK_BYTES:
            problem = f"has a chunk of {size} bytes before its samples; the limit is {_MAX_CHUNK_BYTES}"
            raise _malformed_wav(name.decode("ascii", "replace"), problem, size)
        chunk = _read_up_to(stream, size + size % 2)
        if name == b"fmt ":
            coding = _parse_format_chunk(chunk)


def _parse_format_chunk(chunk: bytes) -> _SampleFormat:
    if len(chunk) < 16:
        raise _malformed_wav("fmt ", f"has a header of {len(chunk)} bytes; at least 16 are needed", len(chunk))
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    kinds = {(_PCM, 16): ("<i2", 1 / 32768), (_FLOAT, 32): ("<f4", 1.0)}
    if (tag, bits) not in kinds or not 1 <= channels <= _MAX_CHANNELS or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise InputError(
            f"the WAV in the pipe has encoding {tag} with {bits} bits, {channels} channels and {rate} Hz; 16-bit "
            f"integers or 32-bit floats, up to {_MAX_CHANNELS} channels and {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz "
            f"are supported; {PIPE_HINT}",
            code=ErrorCode.unsupported,
            field="fmt ",
            value=(tag, bits, channels, rate),
        )
    kind, scale = kinds[tag, bits]
    mask = struct.unpack("<I", chunk[20:24])[0] if len(chunk) >= 40 else 0
    low_frequency = ((mask & (_LOW_FREQUENCY - 1)).bit_count(),) if mask & _LOW_FREQUENCY else ()
    return _SampleFormat(rate, channels, np.dtype(kind), scale, low_frequency)


def _blocks(
    stream: BufferedReader, sample_format: _SampleFormat, length: int | None, prefix: bytes
) -> Iterator[NDArray[np.float32]]:
    """Yields samples as they arrive; an incomplete last sample is dropped."""
    size = sample_format.dtype.itemsize * sample_format.channels
    most = size * max(1, round(sample_format.sample_rate * BLOCK_SECONDS))
    left, held, ended = length, prefix, False
    mix = RunningMix(sample_format.channels, sample_format.low_frequency)
    while not ended:
        wanted = most - len(held) if left is None else min(most - len(held), left)
        more = stream.read1(wanted) if wanted else b""
        ended = not more
        left = None if left is None else left - len(more)
        held += more
        whole = len(held) - len(held) % size
        if whole:
            yield _to_mono(held[:whole], sample_format, mix)
        held = held[whole:]


def _to_mono(data: bytes, sample_format: _SampleFormat, mix: RunningMix) -> NDArray[np.float32]:
    values = (
        np.frombuffer(data, sample_format.dtype).astype(np.float32).reshape(-1, sample_format.channels)
        * sample_format.scale
    )
    if not np.isfinite(values).all():
        raise InputError(
            f"the pipe contains audio samples that are NaN or infinite; {PIPE_HINT}",
            code=ErrorCode.unreadable_media,
            field=_PIPE_FIELD,
        )
    was_single = mix.mix is not None and mix.mix.is_single
    mono = mix.apply(values, sample_format.sample_rate)
    if mix.mix is not None and mix.mix.is_single and not was_single:
        logger.warning("note: %s", single_channel_note("the pipe", mix.mix, sample_format.channels))
    return np.clip(mono, -1, 1)


def _read_up_to(stream: BufferedReader, count: int) -> bytes:
    """Returns `count` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data

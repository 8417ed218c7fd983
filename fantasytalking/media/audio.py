"""Reads audio of any container, codec, rate and channel count as mono samples on the video's clock, and writes WAV."""

import itertools
import math
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_AUDIO_SECONDS, MAX_PAUSE_SECONDS
from fantasytalking.media.audio_timeline import AudioLosses, Block, PlacedBlock, note_once, place_blocks
from fantasytalking.media.container import (
    audio_stream,
    check_decoder,
    check_time_span,
    declared_duration,
    open_media,
    time_origin,
    video_stream,
)
from fantasytalking.media.downmix import ChannelMix, measure_mixes, packed_samples, plain_mix, single_channel_note
from fantasytalking.media.joined_clock import decode_joined, may_seek

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 192_000

_BLOCK_SECONDS = 1.0
"""Longest block of silence, in seconds."""
_CODEC_BLOCK_SECONDS, _ROUNDING_SECONDS = 0.3, 0.01
"""Samples that exceed the stated end by less than this are a codec's padding in MP4, and rounding of the resampler in
formats without padding."""
_TAIL_SECONDS = 0.1
"""A file may end this long before the end that it states without counting as damaged."""
_UNKNOWN_WAV_LENGTH = 0x7FFF0000
"""Writers of WAV that do not know the length state this length, a larger one, or 0."""
_MAX_WAV_CHUNKS = 64
"""Chunks that are searched for the samples of a WAV."""

# After a seek, these formats estimate timestamps or land within a frame; they are decoded from the beginning instead.
_UNINDEXED_FORMATS = {"mp3", "aac", "mpeg", "mpegts", "ac3", "eac3", "amr", "dts", "truehd", "loas"}
_MP4_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2"
# Their length is stated, not estimated from the bit rate.
_UNPADDED_FORMATS = {"wav", "w64", "aiff", "au", "caf", "flac", "tta", "wv"}
_STATED_FORMATS = {_MP4_FORMATS, "matroska,webm", "ogg", "mp3"} | _UNPADDED_FORMATS
# Their time stamps may leave pauses on purpose; in others, a gap is damage.
_PAUSING_FORMATS = {_MP4_FORMATS, "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf"}


def write_wav(path: str | Path, samples: NDArray[np.float32] | NDArray[np.int16], sample_rate: int) -> None:
    """Writes mono `samples` (S,), float32 in [-1, 1] or int16, as a 16-bit PCM WAV file."""
    assert samples.ndim == 1 and samples.dtype in (np.float32, np.int16), "mono, float32 or int16"
    is_unit = samples.dtype == np.float32
    values = np.round(np.clip(samples.astype(np.float32), -1, 1) * 32767) if is_unit else samples
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(values.astype("<i2").tobytes())


def read_audio(
    path: str | Path, *, sample_rate: int = 16000, start: float = 0.0, duration: float | None = None
) -> NDArray[np.float32]:
    """Reads mono audio; sample n is at video time start + n / sample_rate.

    Time 0 is the first video frame, or the first sample if the file has no video. Audio that starts later is preceded
    by silence, audio before time 0 is cut off, and encoder priming is dropped. Pauses of the timestamps become silence;
    timestamps that jitter are not followed; recordings that were joined end to end are read one after the other. What
    cannot be decoded is silent and noted in the log. Channels are mixed by `fantasytalking.media.downmix`; of two, the
    mean is taken. The end is not padded: if the audio stops early, fewer samples are returned.

    Args:
        path: audio or video file.
        sample_rate: Hz, 1000 to 192000.
        start: seconds from time 0.
        duration: seconds; None reads to the end.

    Returns:
        (samples,) float32 in [-1, 1]; at most round(duration * sample_rate) samples.

    Raises:
        InputError: an argument is out of range, or the file has no audio track, has no samples in the segment, is
            damaged in more than `MAX_LOST_AUDIO_SHARE` of it, has a pause of more than `MAX_PAUSE_SECONDS`, or is
            longer than `MAX_AUDIO_SECONDS`.
    """
    return np.concatenate(list(iter_audio(path, sample_rate=sample_rate, start=start, duration=duration)))


def iter_audio(
    path: str | Path, *, sample_rate: int = 16000, start: float = 0.0, duration: float | None = None
) -> Iterator[NDArray[np.float32]]:
    """Streams the samples that `read_audio` returns; memory does not grow with their number.

    Yields:
        (samples,) float32 blocks in [-1, 1].

    Raises:
        InputError: as `read_audio`, at once or when the position is reached.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise InputError(
            f"sample_rate is {sample_rate} Hz; use {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} (16000 for wav2vec2)",
            code=ErrorCode.out_of_range,
            field="sample_rate",
            value=sample_rate,
        )
    check_time_span(start, duration)
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(
                f"'{path}' has no audio track; give an audio file or a video with audio",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(path),
            )
        check_decoder(path, stream)
        reader = _AudioReader(path, container, stream, sample_rate, start, duration)
        yield from reader.read()


class _AudioReader:
    """Reads a segment of a track as blocks of samples."""

    def __init__(
        self,
        path: str | Path,
        container: "InputContainer",
        stream: "AudioStream",
        sample_rate: int,
        start: float,
        duration: float | None,
    ) -> None:
        self.path, self.container, self.stream, self.start = path, container, stream, start
        self.losses = AudioLosses(path)
        self.zero = time_origin(container)
        self.seconds = math.inf if duration is None else duration
        self.resampler = _RunResampler(path, sample_rate, start, duration)
        stated = _stated_end(path, container, stream)
        self.stated_seconds = -math.inf if stated is None else stated - self.zero - start
        self.reached = -math.inf

    def read(self) -> Iterator[NDArray[np.float32]]:
        count = 0
        for block in self._without_padding(self._samples()):
            count += len(block)
            yield block
        self._check_losses(count)

    def _check_losses(self, count: int) -> None:
        missing = 0.0
        if self.reached < self.seconds:
            missing = min(self.stated_seconds, self.seconds) - max(0.0, self.reached)
            self.losses.on_end(missing if missing > _TAIL_SECONDS else 0.0)
        if not count:
            problem = f"cannot be decoded ({self.losses.reason})" if self.losses.reason else ""
            raise InputError(
                f"the sound of '{self.path}' {problem}; give an intact file"
                if problem
                else f"'{self.path}' has no audio after {self.start:g} s; give an earlier start or a longer file",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(self.path),
            )
        self.losses.check(min(self.seconds, max(self.reached, self.stated_seconds)))
        self.losses.note()

    def _samples(self) -> Iterator[NDArray[np.float32]]:
        placed = place_blocks(self._decoded(), has_picture=video_stream(self.container) is not None)
        for block in placed:
            self._count_gap(block)
            if block.time is not None:
                yield from self.resampler.begin_run(block.time)
                self.reached = block.time - self.start
            self.reached += block.frame.samples / block.frame.sample_rate
            yield from self.resampler.add(block.frame)
            if self.resampler.is_complete:
                return
        yield from self.resampler.flush()

    def _frames(self) -> "Iterator[tuple[AudioFrame, float]]":
        """Decodes from a second before the start, so that the decoder has settled when the segment begins.

        Without a picture, the first sample is at time 0, whatever its time stamp.
        """
        frames = decode_joined(self.container, self.stream, self.losses.on_damage)
        if video_stream(self.container) is None:
            first = next(frames, None)
            if first is None:
                return
            stamp, base = first[0].pts, first[0].time_base
            if stamp is not None and base is not None and not self.losses.pending_packets:
                self.zero = float(stamp * base)
            frames = itertools.chain([first], frames)
        base, is_indexed = self.stream.time_base, self.container.format.name not in _UNINDEXED_FORMATS
        if self.start > 1 and base is not None and is_indexed and may_seek(self.path, self.container):
            self.container.seek(int((self.zero + self.start - 1) / base), stream=self.stream)
            frames = decode_joined(self.container, self.stream, self.losses.on_damage)
        yield from frames

    def _decoded(self) -> Iterator[Block]:
        is_joined = False
        for frame, shift in self._frames():
            time, stamp, base = None, frame.pts, frame.time_base
            if stamp is not None and base is not None:
                time = float(stamp * base) - self.zero + shift
            if shift != 0 and not is_joined:
                is_joined, self.stated_seconds = True, -math.inf  # of one recording
                note_once(self.path, "joined", "its time stamps jump; it is read as recordings joined end to end")
            lost_packets = self.losses.take_pending()
            if lost_packets and time is None:
                self.losses.on_unplaced(lost_packets * frame.samples / frame.sample_rate)
            yield Block(frame, time, lost_packets)

    def _count_gap(self, block: PlacedBlock) -> None:
        """Counts the part of a gap that lies in the segment."""
        if block.time is None:
            return
        is_first, begin = math.isinf(self.reached), block.time - self.start
        if is_first and not block.lost_packets:
            return
        before = max(0.0, begin if is_first else abs(block.gap))
        seconds = max(0.0, min(begin, self.seconds) - max(0.0, begin - before))
        if seconds < _ROUNDING_SECONDS / 10:
            return
        is_lost = block.lost_packets > 0 or self.container.format.name not in _PAUSING_FORMATS
        self.losses.on_gap(math.copysign(seconds, block.gap), is_lost)

    def _without_padding(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Drops the few samples beyond the stated end that are a codec's padding or rounding."""
        rate, position, held = self.resampler.sample_rate, 0, [np.zeros(0, np.float32)]
        name, end = self.container.format.name, math.inf
        if math.isfinite(self.stated_seconds) and (name == _MP4_FORMATS or name in _UNPADDED_FORMATS):
            end = max(0.0, round(self.stated_seconds * rate))
        padding = _CODEC_BLOCK_SECONDS if name == _MP4_FORMATS else _ROUNDING_SECONDS
        for block in blocks:
            inside = int(min(len(block), max(0.0, end - position)))
            position += len(block)
            if inside:
                yield block[:inside]
            if inside < len(block):
                held.append(block[inside:])
            if position - end >= padding * rate:
                yield np.concatenate(held)
                held, end = held[:1], math.inf


class _RunResampler:
    """Resamples contiguous runs of blocks to mono, with silence between them, up to the samples that are wanted."""

    def __init__(self, path: str | Path, sample_rate: int, start: float, duration: float | None) -> None:
        self.path, self.sample_rate, self.start = path, sample_rate, start
        self.wanted = math.inf if duration is None else round(duration * sample_rate)
        self.mixes = measure_mixes(path)
        self.samples = 0
        self.skipped = 0
        self.source_format: tuple[str, str, int] | None = None
        self.mix = ChannelMix((0,), 1.0)
        self.resampler: AudioResampler | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all wanted samples were yielded."""
        return self.samples >= self.wanted

    def begin_run(self, time: float) -> Iterator[NDArray[np.float32]]:
        """Ends the current run and begins another at `time` seconds: pads with silence, or drops what lies before."""
        yield from self.flush()
        position = round((time - self.start) * self.sample_rate)
        self.skipped = max(0, self.samples - position)
        yield from self._silence(position)

    def _silence(self, position: int) -> Iterator[NDArray[np.float32]]:
        end = min(position, self.wanted)
        if end - self.samples > MAX_PAUSE_SECONDS * self.sample_rate:
            begin, until = (self.start + count / self.sample_rate for count in (self.samples, position))
            raise InputError(
                f"'{self.path}' has no sound from {begin:.2f} s to {until:.2f} s; pauses up to {MAX_PAUSE_SECONDS:g} s "
                "are filled with silence; set a duration that ends before it (--max-seconds N), or cut the file there",
                code=ErrorCode.out_of_range,
                field="path",
                value=str(self.path),
            )
        while self.samples < end:
            yield self._counted(np.zeros(int(min(end - self.samples, _BLOCK_SECONDS * self.sample_rate)), np.float32))

    def add(self, frame: "AudioFrame") -> Iterator[NDArray[np.float32]]:
        """Adds a block to the run."""
        from av.audio.resampler import AudioResampler

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self.source_format:  # broadcasts change the format between programs
            yield from self.flush()
            self.source_format = kind
            self.mix = self.mixes.get(frame.layout.name) or plain_mix(frame)
        if self.resampler is None:
            # Packed samples: PyAV cannot convert planes of eight and more channels to an array. All channels: a mono
            # layout would mix them by FFmpeg's rules.
            self.resampler = AudioResampler(format="flt", rate=self.sample_rate)
        if self.mix.is_single:
            note_once(self.path, "single", single_channel_note("the sound", self.mix, frame.layout.nb_channels))
        frame.pts = None
        yield from self._mixed(self.resampler.resample(frame))

    def flush(self) -> Iterator[NDArray[np.float32]]:
        """Yields what the resampler still holds."""
        if self.resampler is not None:
            yield from self._mixed(self.resampler.resample(None))
            self.resampler = None

    def _mixed(self, frames: "list[AudioFrame]") -> Iterator[NDArray[np.float32]]:
        for frame in frames:
            block = self.mix.apply(packed_samples(frame))
            if not np.isfinite(block).all():
                raise InputError(
                    f"'{self.path}' contains audio samples that are NaN or infinite; give an intact file",
                    code=ErrorCode.unreadable_media,
                    field="path",
                    value=str(self.path),
                )
            dropped = min(self.skipped, len(block))
            self.skipped -= dropped
            left = self.wanted - self.samples
            chosen = block[dropped:] if math.isinf(left) else block[dropped : dropped + max(0, int(left))]
            if len(chosen):
                yield self._counted(np.clip(chosen, -1, 1))

    def _counted(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        self.samples += len(block)
        if self.samples > MAX_AUDIO_SECONDS * self.sample_rate:
            raise InputError(
                f"'{self.path}' has more than {MAX_AUDIO_SECONDS} s of audio; set a duration",
                code=ErrorCode.out_of_range,
                field="path",
                value=str(self.path),
            )
        return block


def _stated_end(path: str | Path, container: "InputContainer", stream: "AudioStream") -> float | None:
    """Returns the container time, in seconds, at which an audio track states that it ends; None if it is not stated.

    Formats without an index only estimate their length, as does an MP3 without a header that counts its frames.
    """
    name = container.format.name
    if name not in _STATED_FORMATS or (name == "mp3" and not stream.start_time):
        return None
    seconds = _wav_seconds(Path(path)) if name == "wav" else declared_duration(stream)
    if container.duration:  # a tag of Matroska may have been copied from the file that this one was cut out of
        seconds = seconds if name == "wav" else min(seconds, container.duration / 1e6)
    begin = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base is not None else 0.0
    return begin + seconds if seconds else None


def _wav_seconds(path: Path) -> float:
    """Returns the duration that the header of a WAV states, in seconds; 0 if it states none.

    FFmpeg states the duration of what is there, so that a truncated file looks whole.
    """
    bytes_per_second = 0
    with path.open("rb") as file:
        file.seek(12)
        for _ in range(_MAX_WAV_CHUNKS):
            header = file.read(8)
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                return size / bytes_per_second if bytes_per_second and size < _UNKNOWN_WAV_LENGTH else 0.0
            if header[:4] == b"fmt ":
                bytes_per_second = int.from_bytes(file.read(12)[8:], "little")
                size -= 12
            file.seek(size + size % 2, 1)
    return 0.0

"""Reads audio of any container, codec, rate and channel count as mono samples on the video's clock, and writes WAV."""

import math
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_AUDIO_SECONDS
from fantasytalking.media.container import audio_stream, check_decoder, check_time_span, open_media, time_origin

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 192_000

# Timestamps are rounded, in some containers to milliseconds; only larger differences are real gaps.
_GAP_SECONDS = 0.02

# Codecs pad their last block with silence; samples beyond the declared end by less than this are such padding.
_CODEC_BLOCK_SECONDS = 0.3

# After a seek, these formats estimate timestamps or land within a frame; they are decoded from the beginning instead.
_UNINDEXED_FORMATS = {"mp3", "aac", "mpeg", "mpegts"}


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
) -> np.ndarray:
    """Reads mono audio; sample n is at video time start + n / sample_rate.

    Time 0 is the first video frame, or the first sample if the file has no video. Audio that starts later is preceded
    by silence, audio before time 0 is cut off, gaps in the timestamps become silence, and encoder priming is dropped.
    Channels are averaged. The end is not padded: if the audio stops early, fewer samples are returned.

    Args:
        path: audio or video file.
        sample_rate: Hz, 1000 to 192000.
        start: seconds from time 0.
        duration: seconds; None reads to the end.

    Returns:
        (samples,) float32 in [-1, 1]; at most round(duration * sample_rate) samples.

    Raises:
        InputError: an argument is out of range, or the file has no audio track, has no samples in the segment, is
            damaged, or is longer than `MAX_AUDIO_SECONDS`.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise InputError(
            f"sample_rate is {sample_rate} Hz; use {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} (16000 for wav2vec2)",
            code=ErrorCode.out_of_range,
            field="sample_rate",
            value=sample_rate,
        )
    check_time_span(start, duration)
    wanted = math.inf if duration is None else round(duration * sample_rate)
    line = _AudioTimeline(path, sample_rate, start)
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise _no_audio_track(path)
        check_decoder(path, stream)
        zero = time_origin(container)
        if start > 1 and container.format.name not in _UNINDEXED_FORMATS and stream.time_base is not None:
            # A second early, so that the decoder has settled when the segment begins.
            container.seek(int((zero + start - 1) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            line.add(frame, zero)
            if line.samples > wanted:
                break
        line.flush()
        declared_end = _declared_end(stream) - zero - start
    samples = line.concatenated()
    if 0 < len(samples) / sample_rate - declared_end < _CODEC_BLOCK_SECONDS:
        wanted = min(wanted, round(declared_end * sample_rate))
    samples = samples[: None if math.isinf(wanted) else max(0, int(wanted))]
    if not len(samples):
        raise InputError(
            f"'{path}' has no audio after {start:g} s; give an earlier start or a longer file",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        )
    return samples


def iter_audio(path: str | Path, *, sample_rate: int = 16000) -> Iterator[NDArray[np.float32]]:
    """Streams the samples that `read_audio` returns for a whole file; memory does not grow with its length.

    Yields:
        (samples,) float32 blocks in [-1, 1].

    Raises:
        InputError: as `read_audio`, when the damaged position is reached.
    """
    line, taken = _AudioTimeline(path, sample_rate, 0.0), 0
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise _no_audio_track(path)
        check_decoder(path, stream)
        zero = time_origin(container)
        end = _declared_end(stream) - zero
        for frame in container.decode(stream):
            line.add(frame, zero)
            # Samples beyond the declared end are yielded only if they are more than a codec's padding.
            if not 0 < line.samples / sample_rate - end < _CODEC_BLOCK_SECONDS:
                block = line.drain()
                taken += len(block)
                yield block
        line.flush()
    rest = line.drain()
    if 0 < line.samples / sample_rate - end < _CODEC_BLOCK_SECONDS:
        rest = rest[: max(0, round(end * sample_rate) - taken)]
    if not taken + len(rest):
        raise InputError(
            f"'{path}' has an audio track without samples; give an intact file",
            code=ErrorCode.unreadable_media,
            field="path",
            value=str(path),
        )
    yield rest


def _no_audio_track(path: str | Path) -> InputError:
    return InputError(
        f"'{path}' has no audio track; give an audio file or a video with audio",
        code=ErrorCode.unreadable_media,
        field="path",
        value=str(path),
    )


def _declared_end(stream: Any) -> float:
    """Returns the container time, in seconds, at which an audio track declares to end; -inf if it declares none."""
    if stream.duration is None or stream.time_base is None:
        return -math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


class _AudioTimeline:
    """Places decoded blocks by their timestamps and resamples each contiguous run."""

    def __init__(self, path: str | Path, sample_rate: int, start: float) -> None:
        self.path, self.sample_rate, self.start = path, sample_rate, start
        self.parts: list[np.ndarray] = []
        self.samples = 0
        self.skip_samples = 0
        self.expected_time: float | None = None
        self.source_format: tuple[str, str, int] | None = None
        self.resampler = self._new_resampler()

    def _new_resampler(self) -> "AudioResampler":
        from av.audio.resampler import AudioResampler

        # All channels: a mono float layout would sum them, which is louder than the recording.
        return AudioResampler(format="fltp", rate=self.sample_rate)

    def add(self, frame: "AudioFrame", time_origin: float) -> None:
        """Adds a decoded block; `time_origin` is the container time, in seconds, that counts as 0."""
        time = self.expected_time or 0.0
        if frame.pts is not None and frame.time_base is not None:
            time = float(frame.pts * frame.time_base) - time_origin
        if self.expected_time is None or abs(time - self.expected_time) > _GAP_SECONDS:
            self.flush()
            self._seek(round((time - self.start) * self.sample_rate))
        else:
            time = self.expected_time
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self.source_format not in (None, kind):  # broadcasts change the format between programs
            self.flush()
        self.source_format = kind
        self.expected_time = time + frame.samples / frame.sample_rate
        frame.pts = None
        self._append(self.resampler.resample(frame))

    def flush(self) -> None:
        """Ends the current run and flushes the resampler."""
        if self.expected_time is not None:
            self._append(self.resampler.resample(None))
            self.resampler = self._new_resampler()

    def _seek(self, position: int) -> None:
        """Continues at sample `position`: pads with silence up to it, or drops samples that come before it."""
        gap = position - self.samples
        self.skip_samples = max(0, -gap)
        if gap > 0:
            self._check_length(gap)
            self.parts.append(np.zeros(gap, np.float32))
            self.samples += gap

    def _append(self, frames: "list[AudioFrame]") -> None:
        for frame in frames:
            block = frame.to_ndarray().mean(axis=0)  # (channels, samples) -> (samples,)
            dropped = min(self.skip_samples, len(block))
            self.skip_samples -= dropped
            block = block[dropped:]
            self._check_length(len(block))
            self.parts.append(block)
            self.samples += len(block)

    def _check_length(self, num_samples: int) -> None:
        if self.samples + num_samples > MAX_AUDIO_SECONDS * self.sample_rate:
            raise InputError(
                f"'{self.path}' has more than {MAX_AUDIO_SECONDS} s of audio; set a duration",
                code=ErrorCode.out_of_range,
                field="path",
                value=str(self.path),
            )

    def drain(self) -> np.ndarray:
        """Returns the samples collected since the last call."""
        samples = self.concatenated()
        self.parts.clear()
        return samples

    def concatenated(self) -> np.ndarray:
        samples = np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)
        if not np.isfinite(samples).all():
            raise InputError(
                f"'{self.path}' contains audio samples that are NaN or infinite; give an intact file",
                code=ErrorCode.unreadable_media,
                field="path",
                value=str(self.path),
            )
        return np.clip(samples, -1, 1).astype(np.float32, copy=False)

"""Sound: any container, codec, rate and channel count to mono float samples on the picture's clock; and to a file."""

import math
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.media.container import audio_stream, check_decoder, open_media, time_origin

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

MAX_AUDIO_SECONDS = 4 * 3600
"""Longer stretches are refused: 4 hours at 16 kHz are 0.9 GB of samples."""

# Time stamps are rounded, in some containers to milliseconds; only larger differences are real gaps.
_GAP_SECONDS = 0.02

# Codecs fill their last block with silence; what lies beyond the declared end by less than this is such filling.
_CODEC_BLOCK_SECONDS = 0.3

# After a seek these estimate time stamps, or land within a frame; they are decoded from the beginning instead.
_UNINDEXED_FORMATS = {"mp3", "aac", "mpeg", "mpegts"}


def write_wav(path: str | Path, samples: NDArray[np.float32] | NDArray[np.int16], sample_rate: int) -> None:
    """Writes mono `samples` (S,), in [-1, 1] or 16-bit, as 16-bit PCM."""
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
    """Reads mono sound, sample n at the picture's time start + n / sample_rate.

    Time 0 is the first frame of the picture, or the first sample where there is no picture. Sound that begins later is
    preceded by silence, sound from before is cut off, gaps in the time stamps become silence, and encoder priming is
    dropped. Channels are averaged. The end is not padded: where the sound stops early, fewer samples come back.

    Returns:
        (samples,) float32 in [-1, 1]; at most round(duration * sample_rate) samples.

    Raises:
        InputError: no sound track, no samples in the stretch, a damaged file, longer than `MAX_AUDIO_SECONDS`.
    """
    if not 1000 <= sample_rate <= 192_000:
        raise InputError(f"sample_rate is {sample_rate}; use 1000 to 192000 samples a second (16000 for wav2vec2)")
    if not 0 <= start < math.inf:
        raise InputError(f"start is {start}; give seconds from the beginning, 0 or more")
    if duration is not None and not 0 < duration < math.inf:
        raise InputError(f"duration is {duration}; give a positive number of seconds or leave it out")
    wanted = math.inf if duration is None else round(duration * sample_rate)
    line = _AudioTimeline(path, sample_rate, start)
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(f"'{path}' has no sound track; give a file with sound")
        check_decoder(path, stream)
        zero = time_origin(container)
        if start > 1 and container.format.name not in _UNINDEXED_FORMATS and stream.time_base is not None:
            # A second early, so that the decoder has settled when the stretch begins.
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
        raise InputError(f"'{path}' has no sound from {start:g} s on; give a file with sound there")
    return samples


def iter_audio(path: str | Path, *, sample_rate: int = 16000) -> Iterator[NDArray[np.float32]]:
    """The samples that `read_audio` gives of a whole file, in blocks (samples,), in memory that does not grow.

    Raises:
        InputError: as `read_audio`, when the place is reached.
    """
    line, taken = _AudioTimeline(path, sample_rate, 0.0), 0
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise InputError(f"'{path}' has no sound track; give a file with sound")
        check_decoder(path, stream)
        zero = time_origin(container)
        end = _declared_end(stream) - zero
        for frame in container.decode(stream):
            line.add(frame, zero)
            # What lies beyond the declared end is given only when it is more than a codec's filling.
            if not 0 < line.samples / sample_rate - end < _CODEC_BLOCK_SECONDS:
                block = line.drain()
                taken += len(block)
                yield block
        line.flush()
    rest = line.drain()
    if 0 < line.samples / sample_rate - end < _CODEC_BLOCK_SECONDS:
        rest = rest[: max(0, round(end * sample_rate) - taken)]
    if not taken + len(rest):
        raise InputError(f"'{path}' has no sound; give a file with sound")
    yield rest


def _declared_end(stream: Any) -> float:
    """Container time in seconds at which a sound track says to end; -inf where it does not say so."""
    if stream.duration is None or stream.time_base is None:
        return -math.inf
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


class _AudioTimeline:
    """Places decoded blocks by their time stamps and resamples each unbroken run."""

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

        # All channels: asked for one of floats it would add them up, louder than what is heard.
        return AudioResampler(format="fltp", rate=self.sample_rate)

    def add(self, frame: "AudioFrame", time_origin: float) -> None:
        """Adds a decoded block; `time_origin` is the container's time that counts as 0."""
        time = self.expected_time or 0.0
        if frame.pts is not None and frame.time_base is not None:
            time = float(frame.pts * frame.time_base) - time_origin
        if self.expected_time is None or abs(time - self.expected_time) > _GAP_SECONDS:
            self.flush()
            self._seek(round((time - self.start) * self.sample_rate))
        else:
            time = self.expected_time
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self.source_format not in (None, kind):  # as broadcasts do between programmes
            self.flush()
        self.source_format = kind
        self.expected_time = time + frame.samples / frame.sample_rate
        frame.pts = None
        self._append(self.resampler.resample(frame))

    def flush(self) -> None:
        """Ends the current run: the resampler's tail comes out."""
        if self.expected_time is not None:
            self._append(self.resampler.resample(None))
            self.resampler = self._new_resampler()

    def _seek(self, position: int) -> None:
        """Continues at sample `position`: silence up to it, or that much of what comes next is dropped."""
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
            raise InputError(f"'{self.path}' has more than {MAX_AUDIO_SECONDS} s of sound; give a start and a duration")

    def drain(self) -> np.ndarray:
        """What was collected since the last time."""
        samples = self.concatenated()
        self.parts.clear()
        return samples

    def concatenated(self) -> np.ndarray:
        samples = np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)
        if not np.isfinite(samples).all():
            raise InputError(f"'{self.path}' holds sound samples that are no numbers; give an intact file")
        return np.clip(samples, -1, 1).astype(np.float32, copy=False)

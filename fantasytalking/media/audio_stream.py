"""Provides audio that is read only as far as needed, at two rates: one for the model, one for the output file."""

from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.media.audio import iter_audio
from fantasytalking.media.audio_pipe import open_audio_pipe


class AudioSampleQueue:
    """Buffers samples that arrive in blocks; drops samples before the last range that was taken.

    Args:
        blocks: (samples,) float32 blocks.
        max_samples: samples after which the audio ends; None reads all blocks.
    """

    def __init__(self, blocks: Iterable[NDArray[np.float32]], max_samples: int | None = None) -> None:
        self._blocks, self._max_samples = iter(blocks), max_samples
        self._buffer = np.zeros(0, np.float32)
        self._buffer_start = 0
        self.ended = False
        """Whether all samples have arrived."""

    @property
    def available(self) -> int:
        """Number of samples that have arrived so far; the total once `ended`."""
        return self._buffer_start + len(self._buffer)

    def wait_for(self, count: int) -> None:
        """Reads blocks until `count` samples have arrived or the audio ends."""
        parts = [self._buffer]
        known = self.available
        while known < count and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
            else:
                parts.append(block)
                known += len(block)
            if self._max_samples is not None and known >= self._max_samples:
                self.ended = True
        if len(parts) > 1:
            held = np.concatenate(parts)
            self._buffer = held if self._max_samples is None else held[: max(0, self._max_samples - self._buffer_start)]

    def take(self, begin: int, end: int) -> NDArray[np.float32]:
        """Returns samples `begin` to `end` - 1, fewer if the audio ends before; drops earlier samples."""
        assert begin >= self._buffer_start, f"sample {begin} was dropped; the first in memory is {self._buffer_start}"
        self.wait_for(end)
        dropped = min(begin - self._buffer_start, len(self._buffer))
        self._buffer = self._buffer[dropped:].copy() if dropped else self._buffer
        self._buffer_start += dropped
        return self._buffer[begin - self._buffer_start : max(0, end - self._buffer_start)]


class DualRateAudio:
    """Audio at two sample rates.

    Args:
        model_audio: the audio for the model (16 kHz).
        output_audio: the same audio at the sample rate of the output file.
    """

    def __init__(self, model_audio: AudioSampleQueue, output_audio: AudioSampleQueue) -> None:
        self.model_audio, self.output_audio = model_audio, output_audio

    @classmethod
    def from_file(cls, path: Path, rates: tuple[int, int], max_seconds: float | None = None) -> "DualRateAudio":
        """Reads an audio or video file.

        Args:
            path: the file. An `InputError` about a damaged position is raised when that position is reached.
            rates: Hz, for the model and for the output file.
            max_seconds: seconds after which the audio ends; None reads all of it.
        """
        return cls(*(AudioSampleQueue(iter_audio(path, sample_rate=rate, duration=max_seconds)) for rate in rates))

    @classmethod
    def from_pipe(
        cls,
        stream: BufferedReader,
        rates: tuple[int, int],
        max_seconds: float | None = None,
        on_block: Callable[[NDArray[np.float32]], object] = lambda block: None,
    ) -> "DualRateAudio":
        """Reads a pipe as `fantasytalking.media.audio_pipe` does, no further than needed, so its sender may block.

        Args:
            stream: the pipe.
            rates: Hz, for the model and for the output file.
            max_seconds: seconds after which the audio ends; None reads all of it.
            on_block: called with every block of the model's audio.

        Raises:
            InputError: no data arrived, or the format is not supported.
        """
        piped = open_audio_pipe(stream)
        model_blocks, output_blocks = (
            resample_blocks(blocks, piped.sample_rate, rate)
            for blocks, rate in zip(tee(piped.blocks), rates, strict=True)
        )
        limits = (_sample_limit(max_seconds, rate) for rate in rates)
        queues = zip((_tap_blocks(model_blocks, on_block), output_blocks), limits, strict=True)
        return cls(*(AudioSampleQueue(blocks, limit) for blocks, limit in queues))


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], sample_rate: int, target_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Resamples (samples,) blocks from `sample_rate` to `target_rate` Hz, block by block."""
    if sample_rate == target_rate:
        yield from blocks
        return
    from av import AudioFrame
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler(format="flt", layout="mono", rate=target_rate)

    def converted(frame: Any) -> Iterator[NDArray[np.float32]]:
        for out in resampler.resample(frame):
            yield np.clip(out.to_ndarray().reshape(-1), -1, 1)

    for block in blocks:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block)[None], format="flt", layout="mono")
        frame.sample_rate = sample_rate
        yield from converted(frame)
    yield from converted(None)


def _tap_blocks(
    blocks: Iterable[NDArray[np.float32]], on_block: Callable[[NDArray[np.float32]], object]
) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        on_block(block)
        yield block


def _sample_limit(max_seconds: float | None, sample_rate: int) -> int | None:
    return None if max_seconds is None else round(max_seconds * sample_rate)

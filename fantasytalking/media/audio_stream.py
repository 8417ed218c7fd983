"""Sound that is read only as far as it is needed, at two rates at once: one for the model, one for the file."""

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
    """Samples that come in blocks: waits for those that are asked for, and forgets those before.

    Args:
        blocks: (samples,) float32 each.
        most: samples after which the sound is taken to end; None = when the blocks do.
    """

    def __init__(self, blocks: Iterable[NDArray[np.float32]], max_samples: int | None = None) -> None:
        self._blocks, self._max_samples = iter(blocks), max_samples
        self._buffer = np.zeros(0, np.float32)
        self._buffer_start = 0
        self.ended = False
        """Whether all samples are known."""

    @property
    def available(self) -> int:
        """Samples that have come so far; all there are when `ended`."""
        return self._buffer_start + len(self._buffer)

    def wait_for(self, count: int) -> None:
        """Reads until `count` samples are known, or the end."""
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
        """Samples `begin` .. `end` - 1, fewer where the sound ends before; earlier ones are given up."""
        assert begin >= self._buffer_start, (
            f"sample {begin} was given up; the first that is held is {self._buffer_start}"
        )
        self.wait_for(end)
        given_up = min(begin - self._buffer_start, len(self._buffer))
        self._buffer = self._buffer[given_up:].copy() if given_up else self._buffer
        self._buffer_start += given_up
        return self._buffer[begin - self._buffer_start : max(0, end - self._buffer_start)]


class DualRateAudio:
    """One sound at two rates.

    Args:
        heard, written: the same sound, for the model (16 kHz) and for the file.
    """

    def __init__(self, model_audio: AudioSampleQueue, output_audio: AudioSampleQueue) -> None:
        self.model_audio, self.output_audio = model_audio, output_audio

    @classmethod
    def from_file(cls, path: Path, rates: tuple[int, int], max_seconds: float | None = None) -> "DualRateAudio":
        """A file; what is damaged in it is told when that place is reached."""
        return cls(
            *(AudioSampleQueue(iter_audio(path, sample_rate=rate), _sample_limit(max_seconds, rate)) for rate in rates)
        )

    @classmethod
    def from_pipe(
        cls,
        stream: BufferedReader,
        rates: tuple[int, int],
        max_seconds: float | None = None,
        on_block: Callable[[NDArray[np.float32]], object] = lambda block: None,
    ) -> "DualRateAudio":
        """A pipe: see `fantasytalking.media.audio_pipe`. It is read no further than needed, so its sender may wait.

        Args:
            on_block: given every block that is heard, at the first of the rates.

        Raises:
            InputError: nothing came, or nothing that can be read.
        """
        piped = open_audio_pipe(stream)
        heard, written = (
            resample_blocks(blocks, piped.sample_rate, rate)
            for blocks, rate in zip(tee(piped.blocks), rates, strict=True)
        )
        limits = (_sample_limit(max_seconds, rate) for rate in rates)
        queues = zip((_tap_blocks(heard, on_block), written), limits, strict=True)
        return cls(*(AudioSampleQueue(blocks, most) for blocks, most in queues))


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], sample_rate: int, target_rate: int
) -> Iterator[NDArray[np.float32]]:
    """The same sound at another rate, block by block."""
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

"""Sound that is read only as far as it is needed, at two rates at once: one for the model, one for the file."""

from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fantasytalking.media.audio import iter_audio
from fantasytalking.media.audio_pipe import open_pipe


class SampleQueue:
    """Samples that come in blocks: waits for those that are asked for, and forgets those before.

    Args:
        blocks: (samples,) float32 each.
        most: samples after which the sound is taken to end; None = when the blocks do.
    """

    def __init__(self, blocks: Iterable[NDArray[np.float32]], most: int | None = None) -> None:
        self._blocks, self._most = iter(blocks), most
        self._held = np.zeros(0, np.float32)
        self._begin = 0
        self.ended = False
        """Whether all samples are known."""

    @property
    def known(self) -> int:
        """Samples that have come so far; all there are when `ended`."""
        return self._begin + len(self._held)

    def wait_for(self, count: int) -> None:
        """Reads until `count` samples are known, or the end."""
        parts = [self._held]
        known = self.known
        while known < count and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
            else:
                parts.append(block)
                known += len(block)
            if self._most is not None and known >= self._most:
                self.ended = True
        if len(parts) > 1:
            held = np.concatenate(parts)
            self._held = held if self._most is None else held[: max(0, self._most - self._begin)]

    def take(self, begin: int, end: int) -> NDArray[np.float32]:
        """Samples `begin` .. `end` - 1, fewer where the sound ends before; earlier ones are given up."""
        assert begin >= self._begin, f"sample {begin} was given up; the first that is held is {self._begin}"
        self.wait_for(end)
        given_up = min(begin - self._begin, len(self._held))
        self._held = self._held[given_up:].copy() if given_up else self._held
        self._begin += given_up
        return self._held[begin - self._begin : max(0, end - self._begin)]


class LiveSound:
    """One sound at two rates.

    Args:
        heard, written: the same sound, for the model (16 kHz) and for the file.
    """

    def __init__(self, heard: SampleQueue, written: SampleQueue) -> None:
        self.heard, self.written = heard, written

    @classmethod
    def of_file(cls, path: Path, rates: tuple[int, int], seconds: float | None = None) -> "LiveSound":
        """A file; what is damaged in it is told when that place is reached."""
        return cls(*(SampleQueue(iter_audio(path, sample_rate=rate), _most(seconds, rate)) for rate in rates))

    @classmethod
    def of_pipe(
        cls,
        stream: BufferedReader,
        rates: tuple[int, int],
        seconds: float | None = None,
        listen: Callable[[NDArray[np.float32]], object] = lambda block: None,
    ) -> "LiveSound":
        """A pipe: see `fantasytalking.media.audio_pipe`. It is read no further than needed, so its sender may wait.

        Args:
            listen: given every block that is heard, at the first of the rates.

        Raises:
            InputError: nothing came, or nothing that can be read.
        """
        piped = open_pipe(stream)
        heard, written = (
            resampled(blocks, piped.rate, rate) for blocks, rate in zip(tee(piped.blocks), rates, strict=True)
        )
        limits = (_most(seconds, rate) for rate in rates)
        queues = zip((_listened(heard, listen), written), limits, strict=True)
        return cls(*(SampleQueue(blocks, most) for blocks, most in queues))


def resampled(blocks: Iterable[NDArray[np.float32]], rate: int, wanted: int) -> Iterator[NDArray[np.float32]]:
    """The same sound at another rate, block by block."""
    if rate == wanted:
        yield from blocks
        return
    from av import AudioFrame
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler(format="flt", layout="mono", rate=wanted)

    def converted(frame: Any) -> Iterator[NDArray[np.float32]]:
        for out in resampler.resample(frame):
            yield np.clip(out.to_ndarray().reshape(-1), -1, 1)

    for block in blocks:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block)[None], format="flt", layout="mono")
        frame.sample_rate = rate
        yield from converted(frame)
    yield from converted(None)


def _listened(
    blocks: Iterable[NDArray[np.float32]], listen: Callable[[NDArray[np.float32]], object]
) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        listen(block)
        yield block


def _most(seconds: float | None, rate: int) -> int | None:
    return None if seconds is None else round(seconds * rate)

"""Mixes the channels of a recording to one without losing the level of what is heard.

The mix of a file is the sum of its channels, times one gain that is measured once per file:

- One channel is taken as it is.
- Of two channels the mean is taken, as for every stereo recording. If one of them is silent, it does not count: the
  other keeps its level.
- More channels are summed so that the mix is as loud as the loudest channel, or as loud as it can be without clipping.
  Speech in the center of 5.1 keeps its level, and equal channels are averaged. The channel for low-frequency effects is
  left out.
- If the sum is silent although the channels are not, as for two of opposite polarity, the loudest is taken alone, which
  is noted.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fantasytalking.media.container import audio_stream, check_decoder, open_media
from fantasytalking.media.joined_clock import decode_joined

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

SILENT_DB = -30.0
"""Level relative to the loudest channel below which a channel of a stereo recording is silent."""
CANCELLED_DB = -6.0
"""Level of the sum of all channels relative to the loudest channel below which they cancel each other."""
_INAUDIBLE_DB = -60.0
"""Level relative to a channel for low-frequency effects below which all others are silent."""
MEASURED_SECONDS = 30.0
"""Seconds of sound after which the mix of a file is decided."""
_SOUND_POWER = 1e-6
"""Power of a block, -60 dB of full scale, from which it counts as sound."""
_SCANNED_SECONDS = 600.0
"""Seconds of a file that are read at most to find `MEASURED_SECONDS` of sound."""
_LOW_FREQUENCY_CHANNELS = frozenset(["LFE", "LFE2"])


class ChannelMix(NamedTuple):
    """How the channels of a block are mixed."""

    channels: tuple[int, ...]
    """Indices of the channels that are summed."""
    gain: float
    """Factor of their sum."""
    is_single: bool = False
    """Whether one channel is taken alone, because the mix would be silent or nearly so."""

    def apply(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mixes (samples, channels) to (samples,)."""
        return _sum_of_channels(block, self.channels) * np.float32(self.gain)


class MixMeter:
    """Measures the levels of channels and of their sum, block by block, and decides on their mix.

    Args:
        num_channels: number of channels.
        low_frequency: indices of channels for low-frequency effects.
    """

    def __init__(self, num_channels: int, low_frequency: Sequence[int] = ()) -> None:
        heard = tuple(index for index in range(num_channels) if index not in low_frequency)
        self._heard = heard or tuple(range(num_channels))
        self._energies = np.zeros(num_channels)
        self._sum_energy = self._sum_peak = 0.0
        self.sound_seconds = 0.0
        """Seconds of sound that were measured."""

    def add(self, block: NDArray[np.float32], sample_rate: int) -> None:
        """Measures (samples, channels); silent blocks and ones that are not finite do not count."""
        energies = np.einsum("sc,sc->c", block, block, dtype=np.float64)
        if not len(block) or not np.isfinite(energies).all() or energies.max() < _SOUND_POWER * len(block):
            return
        total = _sum_of_channels(block, self._heard)
        self._energies += energies
        self._sum_energy += float(np.einsum("s,s->", total, total, dtype=np.float64))
        self._sum_peak = max(self._sum_peak, float(np.abs(total).max()))
        self.sound_seconds += len(block) / sample_rate

    def mix(self) -> ChannelMix:
        """Returns the mix for what was measured so far; the mean of the channels if that was nothing."""
        heard, count = self._energies[list(self._heard)], len(self._heard)
        loudest = float(heard.max())
        if self._energies.max() == 0:
            return ChannelMix(self._heard, 1 / count)
        is_silent = loudest < self._energies.max() * _power(_INAUDIBLE_DB)
        if is_silent or self._sum_energy < loudest * _power(CANCELLED_DB):
            channel = self._energies.argmax() if is_silent else self._heard[int(heard.argmax())]
            return ChannelMix((int(channel),), 1.0, is_single=True)
        if count == 2:
            return ChannelMix(self._heard, 1.0 if heard.min() < loudest * _power(SILENT_DB) else 0.5)
        gain = min(1.0, 1 / self._sum_peak, float(np.sqrt(loudest / self._sum_energy)))
        return ChannelMix(self._heard, max(1 / count, gain))


def _sum_of_channels(block: NDArray[np.float32], channels: Sequence[int]) -> NDArray[np.float32]:
    """Sums chosen columns of (samples, channels), one by one: NumPy is slow along a short axis."""
    total = block[:, channels[0]].copy()
    for channel in channels[1:]:
        total += block[:, channel]
    return total


def _power(decibels: float) -> float:
    return float(10 ** (decibels / 10))


class RunningMix:
    """Mixes sound that arrives block by block, by what has arrived so far; the mix changes without a click.

    Args:
        num_channels: number of channels.
        low_frequency: indices of channels for low-frequency effects.
    """

    def __init__(self, num_channels: int, low_frequency: Sequence[int] = ()) -> None:
        self._meter = MixMeter(num_channels, low_frequency)
        self.mix: ChannelMix | None = None
        """The mix of the last block."""

    def apply(self, block: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
        """Measures and mixes (samples, channels) to (samples,)."""
        if self._meter.sound_seconds <= MEASURED_SECONDS:
            self._meter.add(block, sample_rate)
        last, self.mix = self.mix, self._meter.mix()
        mixed = self.mix.apply(block)
        if last is None or last == self.mix:
            return mixed
        weight = np.arange(1, len(block) + 1, dtype=np.float32) / len(block)
        return weight * mixed + (1 - weight) * last.apply(block)


def single_channel_note(name: str, mix: ChannelMix, num_channels: int) -> str:
    """Returns the note about a channel that is taken alone."""
    number = mix.channels[0] + 1
    return f"the {num_channels} channels of {name} cancel each other in a mix; the loudest, channel {number}, is used"


def low_frequency_channels(frame: "AudioFrame") -> list[int]:
    """Returns the indices of the channels for low-frequency effects of a decoded block."""
    return [index for index, channel in enumerate(frame.layout.channels) if channel.name in _LOW_FREQUENCY_CHANNELS]


def packed_samples(frame: "AudioFrame") -> NDArray[np.float32]:
    """Returns (samples, channels) of a block of packed floats."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).astype(np.float32, copy=False)


def plain_mix(frame: "AudioFrame") -> ChannelMix:
    """Returns the mix of a layout that was not measured: the mean of its channels."""
    return MixMeter(frame.layout.nb_channels, low_frequency_channels(frame)).mix()


def measure_mixes(path: str | Path) -> dict[str, ChannelMix]:
    """Measures the mix of each channel layout that occurs in the first `MEASURED_SECONDS` of sound of a file.

    The same file gives the same mix, whatever part of it is read; the result is kept for as long as the file is the
    same. A file of one channel is not measured.
    """
    state = Path(path).stat()
    return _measure_mixes(str(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _measure_mixes(path: str, modified: int, size: int) -> dict[str, ChannelMix]:
    from av.audio.resampler import AudioResampler

    meters: dict[str, MixMeter] = {}
    formats: dict[tuple[str, str, int], AudioResampler] = {}
    seconds = 0.0
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None or stream.codec_context is None or stream.codec_context.layout.nb_channels == 1:
            return {}
        check_decoder(path, stream)
        for frame, _ in decode_joined(container, stream, lambda error, packet: None):
            count, kind = frame.layout.nb_channels, (frame.format.name, frame.layout.name, frame.sample_rate)
            meter = meters.setdefault(frame.layout.name, MixMeter(count, low_frequency_channels(frame)))
            seconds += frame.samples / frame.sample_rate
            frame.pts = None
            if kind not in formats:
                formats[kind] = AudioResampler(format="flt", rate=frame.sample_rate)
            for block in formats[kind].resample(frame):
                meter.add(packed_samples(block), frame.sample_rate)
            if seconds > _SCANNED_SECONDS or sum(one.sound_seconds for one in meters.values()) > MEASURED_SECONDS:
                break
    return {name: meter.mix() for name, meter in meters.items()}

"""Writes sound files of many containers and codecs, with bursts of tone at known places, and damages them."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fantasytalking.media import read_audio
from fantasytalking.media.audio import iter_audio
from fantasytalking.media.audio_stream import DualRateAudio

RATE = 48_000
BURST_SECONDS = 0.1
BURST_LEVEL = 0.5
AAC_DELAY, AC3_DELAY, MP2_DELAY, MP3_DELAY = 1024 / RATE, 256 / RATE, 481 / RATE, 1105 / RATE
"""What an encoder puts before the sound. Raw streams and broadcasts do not state it, so that it cannot be dropped."""


def burst_track(seconds: float, onsets: Sequence[float], rate: int = RATE, hertz: float = 440.0) -> NDArray[np.float32]:
    """(S,) samples: silence with a burst of tone, 0.1 s long and of amplitude 0.5, at each onset."""
    time = np.arange(round(seconds * rate)) / rate
    heard = sum((((onset <= time) & (time < onset + BURST_SECONDS)) for onset in onsets), np.zeros(len(time), bool))
    return (BURST_LEVEL * heard * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def encode_sound(
    path: Path,
    channels: NDArray[np.float32],
    codec: str,
    *,
    layout: str = "mono",
    rate: int = RATE,
    container_format: str | None = None,
    picture: bool = False,
    stamp: Callable[[float], float] | None = None,
    jitter: Callable[[], float] | None = None,
    options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Encodes (C, S) samples.

    `stamp` moves the time stamp, in seconds, of every packet of sound; `jitter` draws what is added to it beside 0.1 s.
    """
    import av

    with av.open(str(path), "w", format=container_format, options=muxer_options or {}) as container:
        video: Any = None
        if picture:
            video = container.add_stream("mpeg2video", rate=25)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        stream: Any = container.add_stream(codec, rate=rate, layout=layout, options=options or {})
        for packet in [*_encoded_pictures(video, channels.shape[1] / rate), *_encoded(stream, channels, layout, rate)]:
            if stamp is not None and packet.stream is stream:
                moved = round(stamp(float(packet.pts * packet.time_base)) / packet.time_base)
                packet.dts = packet.pts = moved
            if jitter is not None and packet.stream is stream:
                packet.pts += round((0.1 + jitter()) / packet.time_base)
            container.mux(packet)
    return path


def _encoded(stream: Any, channels: NDArray[np.float32], layout: str, rate: int) -> list[Any]:
    import av

    resampler = av.AudioResampler(
        format=stream.codec_context.format or "s16", layout=layout, rate=rate, frame_size=stream.frame_size or 1024
    )
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels.T).reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    packets = [packet for part in resampler.resample(frame) for packet in stream.encode(part)]
    return (
        packets + [packet for part in resampler.resample(None) for packet in stream.encode(part)] + stream.encode(None)
    )


def _encoded_pictures(video: Any, seconds: float) -> list[Any]:
    import av

    if video is None:
        return []
    packets = []
    for number in range(round(seconds * 25)):
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 + number * 4 % 200, np.uint8), format="rgb24")
        frame.pts = number
        packets += video.encode(frame)
    return packets + video.encode(None)


def encode_tracks(path: Path, tracks: Sequence[NDArray[np.float32]], default: int) -> Path:
    """Writes several mono AAC tracks, of which one is marked as default."""
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("aac", rate=RATE, layout="mono") for _ in tracks]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, samples in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def damaged(source: Path, target: Path, *, cut_to: float | None = None, junk_at: float | None = None) -> Path:
    """Copies a file, cut to a fraction of its bytes, or with 300 random bytes in place of those at a fraction."""
    content = bytearray(source.read_bytes())
    if junk_at is not None:
        begin = int(junk_at * len(content))
        content[begin : begin + 300] = np.random.default_rng(0).bytes(300)
    target.write_bytes(content[: None if cut_to is None else int(cut_to * len(content))])
    return target


def onsets_and_levels(samples: NDArray[np.float32], rate: int = 16_000) -> list[tuple[float, float]]:
    """Returns the onset in seconds and the amplitude of every burst."""
    loud = np.abs(samples) > 0.05
    indices = np.flatnonzero(loud)
    if not len(indices):
        return []
    starts = indices[np.flatnonzero(np.diff(indices, prepend=-rate) > 0.02 * rate)]
    found = []
    for start in starts:
        middle = samples[start + round(0.03 * rate) : start + round(0.08 * rate)]
        found.append((float(start / rate), float(np.sqrt(2 * np.mean(middle.astype(np.float64) ** 2)))))
    return found


def assert_bursts(
    samples: NDArray[np.float32], onsets: Iterable[float], level: float = BURST_LEVEL, within: float = 0.003
) -> None:
    found = onsets_and_levels(samples)
    assert [onset for onset, _ in found] == pytest.approx(list(onsets), abs=within)
    assert [heard for _, heard in found] == pytest.approx([level] * len(found), rel=0.08)


def read_every_way(path: Path) -> NDArray[np.float32]:
    """Reads a file at once, in blocks and through the queues of a stream, which give the same samples."""
    whole = read_audio(path)
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(path))), whole)
    audio = DualRateAudio.from_file(path, (16_000, RATE))
    np.testing.assert_array_equal(audio.model_audio.take(0, 10**7), whole)
    assert len(audio.output_audio.take(0, 10**7)) == pytest.approx(3 * len(whole), abs=3)
    return whole


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

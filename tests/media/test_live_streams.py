"""Audio that arrives through pipes and video that is played while it is written."""

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import probe, read_audio, read_video, write_video, write_wav
from fantasytalking.media.audio import iter_audio
from fantasytalking.media.audio_pipe import open_audio_pipe
from fantasytalking.media.audio_stream import AudioSampleQueue, DualRateAudio, resample_blocks
from fantasytalking.media.fragmented_mp4 import FragmentedMp4Writer
from tests.helpers.errors import raises_input_error

RATE = 16_000


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wave_bytes(samples: np.ndarray, rate: int = RATE, tag: int = 1, length: int | None = None, notes: int = 0) -> bytes:
    """A WAV of (samples, channels)."""
    data = samples.astype("<f4" if tag == 3 else "<i2").tobytes()
    bits, channels = (32 if tag == 3 else 16), samples.shape[1]
    layout = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    extra = b"LIST" + struct.pack("<I", notes) + b"x" * (notes + notes % 2) if notes else b""
    size = len(data) if length is None else length
    return (
        b"RIFF\xff\xff\xff\xffWAVE"
        + extra
        + b"fmt "
        + struct.pack("<I", 16)
        + layout
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def reader(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def read_pipe(data: bytes) -> tuple[int, np.ndarray]:
    piped = open_audio_pipe(reader(data))
    return piped.sample_rate, np.concatenate([np.zeros(0, np.float32), *piped.blocks])


@pytest.mark.parametrize("length", [None, 0, 0xFFFFFFFF], ids=["declared", "zero", "endless"])
@pytest.mark.parametrize("notes", [0, 33])
def test_wav_of_any_declared_length(length, notes):
    steps = np.round(tone(0.35) * 32767)[:, None]
    rate, samples = read_pipe(wave_bytes(steps, length=length, notes=notes))
    assert rate == RATE
    np.testing.assert_allclose(samples, steps[:, 0] / 32768, atol=1e-7)


def test_two_channels_are_averaged_and_floats_are_read():
    left, right = tone(0.2, 44_100), 0.3 * tone(0.2, 44_100)
    rate, samples = read_pipe(wave_bytes(np.stack([left, right], axis=1), rate=44_100, tag=3))
    assert rate == 44_100
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    "levels", [(1, 0), (0, 1), (0.001, 1), (1, -1), (1, -0.8), (0, 0, 1, 0, 0, 0), (0,) * 9 + (1,)]
)
def test_channels_of_a_pipe_are_mixed_as_those_of_a_file(tmp_path, caplog, levels):
    steps = np.round(np.stack([level * tone(0.5) for level in levels], axis=1) * 32767)
    (tmp_path / "a.wav").write_bytes(wave_bytes(steps, length=2 * steps.size))
    _, samples = read_pipe(wave_bytes(steps))
    np.testing.assert_allclose(samples, read_audio(tmp_path / "a.wav", sample_rate=RATE), atol=1e-6)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)
    assert len(caplog.records) == (2 if min(levels) < 0 else 0)  # one for the pipe, one for the file


def test_a_channel_that_speaks_up_later_in_a_pipe_is_heard_without_a_click():
    steps = np.zeros((2 * RATE, 2))
    steps[:, 0], steps[RATE:, 1] = tone(2.0) * 32767, 0.5 * tone(1.0) * 32767
    _, samples = read_pipe(wave_bytes(steps))
    assert np.abs(samples[:RATE]).max() == pytest.approx(0.5, abs=1e-3)
    assert np.abs(samples[-RATE // 2 :]).max() == pytest.approx(0.375, abs=1e-3)
    assert np.abs(np.diff(samples)).max() < 1.6 * np.abs(np.diff(tone(1.0))).max()


def test_chunks_after_the_samples_of_a_wav_are_ignored():
    steps = np.full((1600, 1), 1000)
    _, samples = read_pipe(wave_bytes(steps) + b"LIST" + b"\x7f" * 400)
    assert len(samples) == 1600


def test_bare_samples():
    steps = np.round(tone(0.3) * 32767).astype("<i2")
    rate, samples = read_pipe(steps.tobytes() + b"\x01")  # the last sample is not whole
    assert rate == RATE
    np.testing.assert_allclose(samples, steps / 32768, atol=1e-7)


@pytest.mark.parametrize(
    ("data", "code", "field", "value"),
    [
        (b"", ErrorCode.missing_value, "pipe", None),
        (b"ID3\x04" + bytes(100), ErrorCode.unsupported, "pipe", "MP3"),
        (b"\0\0\0\x20ftypM4A " + bytes(100), ErrorCode.unsupported, "pipe", "MP4"),
        (b"caff\0\x01\0\0desc" + bytes(100), ErrorCode.unsupported, "pipe", "CAF"),
        (b"wvpk" + bytes(100), ErrorCode.unsupported, "pipe", "WavPack"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), ErrorCode.unsupported, "pipe", "RIFF AVI"),
        (b"RIFF\0\0\0\0WAVE", ErrorCode.malformed_file, "data", None),
        (b"RIFF\0\0\0\0WAVEdata\x10\0\0\0" + bytes(16), ErrorCode.malformed_file, "fmt ", None),
        (b"RIFF\0\0\0\0WAVEfmt \x04\0\0\0abcd", ErrorCode.malformed_file, "fmt ", 4),
        (b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\x7f" + bytes(16), ErrorCode.malformed_file, "LIST", 0x7FFFFFFF),
        (wave_bytes(np.zeros((16, 1)), tag=7), ErrorCode.unsupported, "fmt ", (7, 16, 1, 16000)),
        (wave_bytes(np.zeros((16, 1)), rate=5), ErrorCode.unsupported, "fmt ", (1, 16, 1, 5)),
        (wave_bytes(np.full((16, 1), np.nan), tag=3), ErrorCode.unreadable_media, "pipe", None),
    ],
)
def test_malformed_pipes_are_refused_in_one_line(data, code, field, value):
    with raises_input_error(code, field, value) as raised:
        read_pipe(data)
    assert "\n" not in str(raised.value)


def test_samples_are_yielded_as_soon_as_they_arrive():
    ends = os.pipe()
    with os.fdopen(ends[1], "wb", buffering=0) as sender, os.fdopen(ends[0], "rb") as receiver:
        sender.write(bytes(2 * 400))
        blocks = open_audio_pipe(receiver).blocks
        assert sum(len(next(blocks)) for _ in range(1)) <= 400  # although the sender has not ended
        sender.write(bytes(2 * 100))
        assert len(next(blocks)) > 0


def test_a_queue_reads_no_further_than_requested_and_drops_earlier_samples():
    read = []

    def blocks():
        for number in range(10):
            read.append(number)
            yield np.full(100, number, np.float32)

    queue = AudioSampleQueue(blocks(), max_samples=750)
    queue.wait_for(150)
    assert read == [0, 1] and queue.available == 200 and not queue.ended
    assert queue.take(180, 320).tolist() == [1.0] * 20 + [2.0] * 100 + [3.0] * 20
    assert read == [0, 1, 2, 3]
    with pytest.raises(AssertionError, match="was dropped"):
        queue.take(0, 10)
    assert len(queue.take(700, 900)) == 50 and queue.ended and queue.available == 750


@pytest.mark.parametrize("suffix", [".wav", ".mp4"])
def test_a_file_in_blocks_is_the_file_at_once(tmp_path, suffix):
    path = tmp_path / f"sound{suffix}"
    if suffix == ".wav":
        write_wav(path, tone(1.3, 22_050), 22_050)
    else:
        write_video(path, [np.zeros((32, 32, 3), np.uint8)] * 33, fps=25, audio=tone(1.32))
    for rate in (16_000, 48_000):
        np.testing.assert_array_equal(
            np.concatenate(list(iter_audio(path, sample_rate=rate))), read_audio(path, sample_rate=rate)
        )


def test_a_pipe_is_read_at_two_rates_and_every_block_is_reported():
    steps = np.round(tone(0.5) * 32767).astype("<i2")
    kept: list[np.ndarray] = []
    sound = DualRateAudio.from_pipe(reader(steps.tobytes()), (16_000, 48_000), None, kept.append)
    assert len(sound.output_audio.take(0, 10**6)) == pytest.approx(24_000, abs=200)
    samples = sound.model_audio.take(0, 10**6)
    np.testing.assert_allclose(samples, steps / 32768, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate(kept), samples)


def test_resampling_in_blocks_is_resampling_at_once():
    samples = tone(1.0, 44_100)
    whole = np.concatenate(list(resample_blocks([samples], 44_100, 16_000)))
    parts = np.concatenate(list(resample_blocks(np.array_split(samples, 37), 44_100, 16_000)))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert len(whole) == pytest.approx(16_000, abs=40)
    np.testing.assert_allclose(whole[200:-200], tone(1.0)[200 : len(whole) - 200], atol=2e-3)


def brightening_frames(count: int) -> list[np.ndarray]:
    return [np.full((32, 48, 3), 5 * number % 256, np.uint8) for number in range(count)]


def test_a_growing_file_can_be_opened_while_it_grows(tmp_path):
    path, sound = tmp_path / "video.mp4", tone(2.4, 48_000)
    seen = []
    with FragmentedMp4Writer(path, fps=25, sample_rate=48_000) as video:
        for number, frame in enumerate(brightening_frames(60), start=1):
            begin, end = video.samples_until(number - 1), video.samples_until(number)
            video.write(frame, sound[begin:end])
            if number in (20, 40):
                copy = tmp_path / f"{number}.mp4"
                copy.write_bytes(path.read_bytes())
                seen.append(len(read_video(copy).frames))
    assert 20 - 10 <= seen[0] <= 20 and 40 - 10 <= seen[1] <= 40
    made = read_video(path)
    assert len(made.frames) == 60 and probe(path).fps == 25
    assert np.abs(made.frames.mean(axis=(1, 2, 3)) - [5 * number % 256 for number in range(60)]).max() < 4
    np.testing.assert_allclose(made.times, np.arange(60) / 25, atol=1e-6)
    written = read_audio(path, sample_rate=48_000)
    assert len(written) == pytest.approx(2.4 * 48_000, abs=48_000 / 25)
    assert np.corrcoef(written[5000:100_000], sound[5000:100_000])[0, 1] > 0.99


def test_a_growing_video_through_a_pipe(tmp_path):
    ends, received = os.pipe(), []

    def receive() -> None:
        with os.fdopen(ends[0], "rb") as source:
            received.append(source.read())

    thread = threading.Thread(target=receive)
    thread.start()
    with os.fdopen(ends[1], "wb") as target, FragmentedMp4Writer(target, fps=25, sample_rate=48_000) as video:
        for frame in brightening_frames(30):
            video.write(frame, np.zeros(0, np.float32))
    thread.join()
    path = tmp_path / "received.mp4"
    path.write_bytes(received[0])
    assert len(read_video(path).frames) == 30 and probe(path).has_audio


def test_a_reader_that_closes_the_pipe_is_reported(tmp_path):
    ends = os.pipe()
    os.close(ends[0])
    with raises_input_error(ErrorCode.output_exists, "target"):
        target = os.fdopen(ends[1], "wb", buffering=0)
        with FragmentedMp4Writer(target, fps=25, sample_rate=48_000) as video:
            for frame in brightening_frames(200):
                video.write(frame, np.zeros(0, np.float32))


def test_equal_frames_give_equal_bytes(tmp_path):
    made: list[bytes] = []
    for name in ("a", "b"):
        path: Path = tmp_path / f"{name}.mp4"
        with FragmentedMp4Writer(path, fps=25, sample_rate=48_000) as video:
            for frame in brightening_frames(30):
                video.write(frame, tone(0.04, 48_000))
        made.append(path.read_bytes())
    assert made[0] == made[1]

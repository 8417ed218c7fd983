"""Reading sound: pauses, joined recordings and time stamps that jitter, in sound and picture."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import iter_frames, read_audio
from fantasytalking.media.audio import iter_audio
from tests.helpers.errors import raises_input_error
from tests.media.sound_files import (
    AAC_DELAY,
    AC3_DELAY,
    MP2_DELAY,
    RATE,
    assert_bursts,
    burst_track,
    encode_sound,
    notes,
    onsets_and_levels,
    read_every_way,
)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libopus"), ("mp4", "aac"), ("ts", "mp2")])
@pytest.mark.parametrize("seconds", [0.06, 1.0])
def test_a_pause_of_the_time_stamps_is_silent_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str, seconds: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    encode_sound(
        path,
        burst_track(1.5, [0.25, 1.25])[None],
        codec,
        stamp=lambda time: time + seconds * (time > 0.7),
        muxer_options={"max_interleave_delta": "1"},
    )
    delay = MP2_DELAY if suffix == "ts" else 0.0
    assert_bursts(read_every_way(path), [0.25 + delay, 1.25 + seconds + delay])
    (note,) = notes(caplog)
    assert f"pauses of {seconds:.2f} s" in note


def test_a_pause_of_hours_costs_no_more_than_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    hours = 14_000
    encode_sound(path, burst_track(1.5, [0.25, 1.25])[None], "libopus", stamp=lambda time: time + hours * (time > 0.7))
    tracemalloc.start()
    try:
        assert_bursts(read_audio(path, duration=3), [0.25])
        assert_bursts(np.concatenate(list(iter_audio(path, duration=3))), [0.25])
        assert_bursts(read_audio(path, start=hours), [1.25])
        for read in (read_audio, lambda path: list(iter_audio(path))):
            with raises_input_error(ErrorCode.out_of_range, "path", str(path)) as error:
                read(path)
            assert "no sound from 0.71 s to 14000.71 s" in str(error.value)
        blocks = iter_audio(path, sample_rate=RATE)
        assert all(len(next(blocks)) <= RATE for _ in range(20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6


def test_a_picture_is_not_repeated_for_hours(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        packets = []
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 + 100 * index, np.uint8), format="rgb24")
            frame.pts = index
            packets += stream.encode(frame)
        for number, packet in enumerate([*packets, *stream.encode(None)]):
            packet.pts = packet.dts = round(number * 11 * 3600 / packet.time_base)
            container.mux(packet)
    assert len(list(iter_frames(path, fps=5, duration=4))) == 20
    assert len(list(iter_frames(path, fps=None))) == 2
    with raises_input_error(ErrorCode.out_of_range, "path", str(path)) as error:
        list(iter_frames(path, fps=5))
    assert "one frame from 0.00 s to 39600.00 s" in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "codec", "delay"),
    [
        ("ogg", "libopus", 0.0),
        ("oga", "flac", 0.0),
        ("flac", "flac", 0.0),
        ("webm", "libopus", 0.0),
        ("ts", "aac", AAC_DELAY),
        ("mpg", "mp2", MP2_DELAY),
        ("aac", "aac", AAC_DELAY),
        ("ac3", "ac3", AC3_DELAY),
    ],
)
def test_recordings_joined_end_to_end_are_read_to_the_end(
    tmp_path: Path, suffix: str, codec: str, delay: float
) -> None:
    muxer = "ogg" if suffix == "oga" else None
    parts = [
        encode_sound(tmp_path / f"{onset}.{suffix}", burst_track(1.5, [onset])[None], codec, container_format=muxer)
        for onset in (0.25, 0.75)
    ]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    length = len(read_audio(parts[0])) / 16_000
    samples = read_every_way(path)
    assert len(samples) / 16_000 == pytest.approx(2 * length, abs=0.01)
    assert_bursts(samples, [0.25 + delay, length + 0.75 + delay], within=0.01)
    assert_bursts(read_audio(path, start=2.0, duration=0.9), [length + 0.75 + delay - 2.0], within=0.01)


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_sound_and_picture_stay_in_sync_where_recordings_are_joined(tmp_path: Path, suffix: str) -> None:
    part = encode_sound(tmp_path / f"a.{suffix}", burst_track(1.6, [0.6])[None], "mp2", picture=True)
    (single,) = onsets_and_levels(read_audio(part))
    path = tmp_path / f"b.{suffix}"
    path.write_bytes(3 * part.read_bytes())
    frames = [(time, float(frame.mean())) for time, frame in iter_frames(path, fps=None)]
    assert len(frames) == 120 and frames[-1][0] == pytest.approx(4.76, abs=0.15)
    begins = [later for (_, before), (later, shade) in itertools.pairwise(frames) if shade < before - 50]
    onsets = [time + single[0] for time in (0.0, *begins)]
    assert [onset for onset, _ in onsets_and_levels(read_audio(path))] == pytest.approx(onsets, abs=0.02)
    part = [(time, float(frame.mean())) for time, frame in iter_frames(path, fps=None, start=2.0)]
    assert part == [pair for pair in frames if pair[0] >= 2.0]
    found = [2.0 + onset for onset, _ in onsets_and_levels(read_audio(path, start=2.0))]
    assert found == pytest.approx(onsets[1:], abs=0.02)


def test_sound_that_begins_later_than_its_picture_in_the_second_of_joined_recordings(tmp_path: Path) -> None:
    part = encode_sound(tmp_path / "a.ts", burst_track(1.6, [0.6])[None], "mp2", picture=True)
    late = encode_sound(
        tmp_path / "b.ts", burst_track(1.6, [0.6])[None], "mp2", picture=True, stamp=lambda time: time + 3
    )
    path = tmp_path / "c.ts"
    path.write_bytes(part.read_bytes() + late.read_bytes())
    frames = [(time, float(frame.mean())) for time, frame in iter_frames(path, fps=None)]
    (begin,) = [later for (_, before), (later, shade) in itertools.pairwise(frames) if shade < before - 50]
    expected = [0.6 + MP2_DELAY, begin + 3.6 + MP2_DELAY]
    assert_bursts(read_every_way(path), expected, within=0.02)


def test_a_picture_that_follows_hours_later_is_joined_in_a_transport_stream(tmp_path: Path) -> None:
    part = encode_sound(tmp_path / "a.ts", burst_track(1.6, [0.6])[None], "mp2", picture=True)
    later = encode_sound(
        tmp_path / "b.ts",
        burst_track(1.6, [0.6])[None],
        "mp2",
        picture=True,
        muxer_options={"output_ts_offset": "14000"},
    )
    path = tmp_path / "c.ts"
    path.write_bytes(part.read_bytes() + later.read_bytes())
    frames = list(iter_frames(path, fps=25))
    assert len(frames) == pytest.approx(80, abs=3)
    found = [onset for onset, _ in onsets_and_levels(read_audio(path))]
    assert found == pytest.approx([0.6 + MP2_DELAY, 1.6 + 0.6 + MP2_DELAY], abs=0.05)


def test_a_recording_that_follows_hours_later_is_joined_in_a_transport_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.ts"
    encode_sound(path, burst_track(1.5, [0.25, 1.25])[None], "mp2", stamp=lambda time: time + 14_000 * (time > 0.7))
    assert_bursts(read_every_way(path), [0.25 + MP2_DELAY, 1.25 + MP2_DELAY])
    assert "joined end to end" in notes(caplog)[0]


@pytest.mark.parametrize(("suffix", "codec"), [("mka", "libopus"), ("mka", "aac"), ("mkv", "pcm_s16le")])
@pytest.mark.parametrize("milliseconds", [10, 25, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_time_stamps_that_jitter_do_not_chop_the_sound(
    tmp_path: Path, suffix: str, codec: str, milliseconds: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = encode_sound(
        tmp_path / f"a.{suffix}",
        burst_track(3.0, [0.25, 1.25, 2.75])[None],
        codec,
        picture=suffix == "mkv",
        jitter=lambda: rng.uniform(-1, 1) * milliseconds / 1000,
        container_format="matroska",
    )
    samples = read_every_way(path)
    # Without a picture the first sample is the origin; with one, the median of the time stamps places the sound.
    begin, within = (0.0, 0.004) if suffix == "mka" else (0.1, 0.03)
    assert_bursts(samples, [begin + 0.25, begin + 1.25, begin + 2.75], within=within)
    onsets = [onset for onset, _ in onsets_and_levels(samples)]
    assert np.diff(onsets) == pytest.approx([1.0, 1.5], abs=0.002)


def test_a_pause_between_time_stamps_that_jitter_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = encode_sound(
        tmp_path / "a.mka",
        burst_track(3.0, [0.25, 2.25])[None],
        "libopus",
        container_format="matroska",
        stamp=lambda time: time + 0.5 * (time > 1.5),
        jitter=lambda: rng.uniform(-1, 1) * 0.025,
    )
    assert_bursts(read_every_way(path), [0.25, 2.75], within=0.02)

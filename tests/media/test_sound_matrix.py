"""Reading sound: bursts of tone keep their place and level in every container, layout and state of damage."""

import itertools
import logging
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import iter_frames, probe, read_audio, read_frames_at, read_video
from fantasytalking.media.audio import iter_audio
from fantasytalking.media.audio_stream import DualRateAudio
from tests.helpers.errors import raises_input_error
from tests.media.sound_files import (
    BURST_LEVEL,
    RATE,
    burst_track,
    damaged,
    encode_sound,
    encode_tracks,
    onsets_and_levels,
)

ONSETS = (0.25, 0.75, 1.25)
AAC_DELAY, AC3_DELAY, MP2_DELAY, MP3_DELAY = 1024 / RATE, 256 / RATE, 481 / RATE, 1105 / RATE
"""What an encoder puts before the sound. Raw streams and broadcasts do not state it, so that it cannot be dropped."""
FORMATS = [
    ("wav", "pcm_s16le", None, 0.0),
    ("w64", "pcm_s16le", None, 0.0),
    ("aiff", "pcm_s16be", None, 0.0),
    ("au", "pcm_s16be", None, 0.0),
    ("caf", "pcm_s16le", None, 0.0),
    ("caf", "alac", None, 0.0),
    ("flac", "flac", None, 0.0),
    ("wv", "wavpack", None, 0.0),
    ("tta", "tta", None, 0.0),
    ("mp3", "libmp3lame", None, 0.0),
    ("m4a", "aac", "ipod", 0.0),
    ("m4a", "alac", "ipod", 0.0),
    ("mp4", "libopus", None, 0.0),
    ("mov", "pcm_s16le", None, 0.0),
    ("ogg", "libopus", None, 0.0),
    ("oga", "flac", "ogg", 0.0),
    ("webm", "libopus", None, 0.0),
    ("mka", "libopus", "matroska", 0.0),
    ("mkv", "aac", None, 0.0),
    ("avi", "pcm_s16le", None, 0.0),
    ("avi", "libmp3lame", None, MP3_DELAY),
    ("aac", "aac", "adts", AAC_DELAY),
    ("ts", "aac", "mpegts", AAC_DELAY),
    ("flv", "aac", None, AAC_DELAY),
    ("ac3", "ac3", None, AC3_DELAY),
    ("eac3", "eac3", None, AC3_DELAY),
    ("mpg", "mp2", None, MP2_DELAY),
    ("mp2", "mp2", None, MP2_DELAY),
]


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


@pytest.mark.parametrize(("suffix", "codec", "muxer", "delay"), FORMATS)
def test_every_format_keeps_place_and_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str, muxer: str | None, delay: float
) -> None:
    path = encode_sound(tmp_path / f"a.{suffix}", burst_track(1.5, ONSETS)[None], codec, container_format=muxer)
    samples = read_every_way(path)
    assert_bursts(samples, [onset + delay for onset in ONSETS])
    assert 1.46 < len(samples) / 16_000 < 1.54
    information = probe(path)
    assert information.has_audio and not information.has_video and information.sample_rate == RATE
    part = read_audio(path, start=0.6, duration=0.4)
    assert len(part) == 6400
    assert_bursts(part, [0.15 + delay])
    assert notes(caplog) == []


@pytest.mark.parametrize(
    ("suffix", "codec", "layout", "count"),
    [
        ("wav", "pcm_s16le", "stereo", 2),
        ("m4a", "aac", "stereo", 2),
        ("flac", "flac", "2.1", 3),
        ("ac3", "ac3", "5.1(side)", 6),
        ("eac3", "eac3", "5.1(side)", 6),
        ("m4a", "aac", "5.1", 6),
        ("mkv", "libopus", "5.1", 6),
        ("m4a", "aac", "7.1", 8),
        ("flac", "flac", "7.1", 8),
        ("ogg", "libopus", "7.1", 8),
        ("mov", "pcm_s24le", "7.1.4", 12),
        ("mkv", "pcm_s16le", "hexadecagonal", 16),
        ("wv", "wavpack", "hexadecagonal", 16),
    ],
)
def test_one_channel_among_silent_ones_keeps_its_level(
    tmp_path: Path, suffix: str, codec: str, layout: str, count: int
) -> None:
    center = 2 if layout[0] in "57" else 0
    channels = np.zeros((count, round(1.5 * RATE)), np.float32)
    channels[center] = burst_track(1.5, ONSETS)
    path = encode_sound(tmp_path / f"a.{suffix}", channels, codec, layout=layout)
    assert_bursts(read_every_way(path), ONSETS, within=0.006)


def mixed(tmp_path: Path, *levels: float, layout: str, shift: bool = False) -> NDArray[np.float32]:
    """Reads a FLAC whose channels carry the same bursts at these levels; with `shift`, tones of other pitches."""
    channels = [
        level * burst_track(1.5, ONSETS, hertz=440 * (1 + number * shift)) for number, level in enumerate(levels)
    ]
    path = tmp_path / f"{layout}{levels}.flac"
    return read_every_way(encode_sound(path, np.stack(channels), "flac", layout=layout))


def test_the_mean_of_two_channels_is_taken_if_both_carry_sound(tmp_path: Path) -> None:
    time = np.arange(RATE) / RATE
    left, right = (level * np.sin(2 * np.pi * hertz * time) for level, hertz in ((0.5, 440), (0.3, 660)))
    stereo = np.stack([left, right]).astype(np.float32)
    both = read_audio(encode_sound(tmp_path / "a.wav", stereo, "pcm_f32le", layout="stereo"), sample_rate=RATE)
    np.testing.assert_array_equal(both, (stereo[0] + stereo[1]) / 2)
    assert_bursts(mixed(tmp_path, 1, 0.2, layout="stereo"), ONSETS, level=0.6 * BURST_LEVEL)


def test_a_channel_of_noise_does_not_count(tmp_path: Path) -> None:
    assert_bursts(mixed(tmp_path, 1, 0.01, layout="stereo"), ONSETS)
    assert_bursts(mixed(tmp_path, 0.01, 1, layout="stereo"), ONSETS)


@pytest.mark.parametrize("layout", ["5.1", "7.1"])
def test_speech_in_the_center_keeps_its_level_among_ambience(tmp_path: Path, layout: str) -> None:
    rest = [0.03] * (4 if layout == "7.1" else 2)
    assert_bursts(mixed(tmp_path, 0.03, 0.03, 1, 0, *rest, layout=layout, shift=True), ONSETS)
    assert_bursts(mixed(tmp_path, *[1] * (4 + len(rest)), layout=layout), ONSETS)  # equal channels: no louder


def test_loud_channels_are_mixed_without_clipping(tmp_path: Path) -> None:
    time = np.arange(RATE) / RATE
    tones = np.stack([0.8 * np.sin(2 * np.pi * hertz * time) for hertz in (440, 550, 660)]).astype(np.float32)
    samples = read_audio(encode_sound(tmp_path / "a.wav", tones, "pcm_f32le", layout="3.0"), sample_rate=RATE)
    total = tones.sum(axis=0)
    np.testing.assert_allclose(samples, total / np.abs(total).max(), atol=1e-4)


def test_the_channel_for_low_frequency_effects_is_left_out(tmp_path: Path) -> None:
    channels = np.zeros((6, round(1.5 * RATE)), np.float32)
    channels[2], channels[3] = burst_track(1.5, ONSETS), 0.9 * np.sin(2 * np.pi * 40 * np.arange(1.5 * RATE) / RATE)
    assert_bursts(read_audio(encode_sound(tmp_path / "a.flac", channels, "flac", layout="5.1")), ONSETS)


@pytest.mark.parametrize("right", [-1, -0.8])
def test_channels_that_cancel_each_other_are_heard_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, right: float
) -> None:
    assert_bursts(mixed(tmp_path, 1, right, layout="stereo"), ONSETS)
    (note,) = notes(caplog)  # one, although the file was read several times
    assert "cancel each other" in note and "the loudest, channel 1, is used" in note


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_read(tmp_path: Path, suffix: str, default: int) -> None:
    tracks = [burst_track(1.5, [0.25]), burst_track(1.5, [0.75])]
    assert_bursts(read_every_way(encode_tracks(tmp_path / f"a.{suffix}", tracks, default)), [(0.25, 0.75)[default]])


def test_the_default_track_of_pictures_is_shown(tmp_path: Path) -> None:
    import av
    from av.stream import Disposition

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mpeg2video", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default if number else Disposition(0)
        for number, stream in enumerate(streams):
            for index in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 + 100 * number, np.uint8), format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert read_video(tmp_path / "a.mkv").frames.mean() == pytest.approx(160, abs=5)
    assert read_frames_at(tmp_path / "a.mkv", [0.1]).mean() == pytest.approx(160, abs=5)


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


STATED = [("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("au", "pcm_s16be"), ("flac", "flac"), ("wv", "wavpack")]


def noisy_bursts(seconds: float = 4.0) -> NDArray[np.float32]:
    """Bursts in noise, so that blocks have about the same size."""
    onsets = np.arange(0.25, seconds, 0.5).tolist()
    noise = np.random.default_rng(1).standard_normal(round(seconds * RATE))
    return (burst_track(seconds, onsets) + 0.005 * noise).astype(np.float32)[None]


@pytest.mark.parametrize(("suffix", "codec"), [*STATED, ("mkv", "aac"), ("mp3", "libmp3lame")])
def test_a_missing_end_is_noted_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str
) -> None:
    whole = encode_sound(tmp_path / f"a.{suffix}", noisy_bursts(), codec)
    some = damaged(whole, tmp_path / f"some.{suffix}", cut_to=0.85)
    samples = read_every_way(some)
    assert 3.0 <= len(samples) / 16_000 < 3.5
    assert_bursts(samples[: 16_000 * 2], [0.25, 0.75, 1.25, 1.75])
    (note,) = notes(caplog)
    assert "missing at its end" in note
    most = damaged(whole, tmp_path / f"most.{suffix}", cut_to=0.5)
    for read in (read_audio, lambda path: list(iter_audio(path))):
        with raises_input_error(ErrorCode.unreadable_media, "path", str(most)) as error:
            read(most)
        assert "the limit is 25%" in str(error.value) and "\n" not in str(error.value)
    assert len(read_audio(most, duration=1.0)) == 16_000  # what is asked for is intact


@pytest.mark.parametrize(
    ("suffix", "codec", "muxer", "lost"),
    [
        ("mp3", "libmp3lame", None, 0.06),
        ("m4a", "aac", "ipod", 0.15),
        ("aac", "aac", "adts", 0.06),
        ("flac", "flac", None, 0.3),
        ("ac3", "ac3", None, 0.1),
        ("eac3", "eac3", None, 0.1),
        ("flv", "aac", None, 0.15),
        ("caf", "alac", None, 0.2),
    ],
)
def test_damage_in_the_middle_is_silent_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str, muxer: str | None, lost: float
) -> None:
    whole = encode_sound(tmp_path / f"a.{suffix}", noisy_bursts(), codec, container_format=muxer)
    path = damaged(whole, tmp_path / f"b.{suffix}", junk_at=0.5)
    samples, intact = read_every_way(path), read_audio(whole)
    np.testing.assert_allclose(samples[:24_000], intact[:24_000], atol=0.02)
    later = [onset for onset, _ in onsets_and_levels(samples) if onset > 3]
    assert len(later) == 2 and later == pytest.approx([3.27, 3.77], abs=0.08)
    assert len(intact) - 0.08 * 16_000 <= len(samples) <= len(intact) + 160
    (note,) = notes(caplog)
    seconds = float(note.rsplit("': ", 1)[1].split(" s of sound are damaged")[0])
    assert 0 < seconds <= lost


def test_a_lost_page_of_an_ogg_is_refused_if_it_is_much_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seconds, is_refused in ((8.0, False), (3.0, True)):
        whole = encode_sound(tmp_path / f"{seconds}.ogg", noisy_bursts(seconds), "libopus")
        path = damaged(whole, tmp_path / f"{seconds}_damaged.ogg", junk_at=0.5)
        if is_refused:
            with raises_input_error(ErrorCode.unreadable_media, "path", str(path)):
                read_audio(path)
        else:
            assert len(read_every_way(path)) / 16_000 == pytest.approx(seconds, abs=0.01)
            assert notes(caplog)[0].endswith("1.00 s of sound are damaged and silent")


def test_damage_at_the_beginning_and_throughout(tmp_path: Path) -> None:
    content = bytearray(encode_sound(tmp_path / "a.aac", noisy_bursts(), "aac", container_format="adts").read_bytes())
    begins = [place for place in range(len(content) - 1) if content[place] == 0xFF and content[place + 1] == 0xF1]
    first, every = bytearray(content), bytearray(content)
    first[begins[0] + 7 : begins[1]] = b"\xff" * (begins[1] - begins[0] - 7)
    for begin, end in itertools.pairwise(begins):
        every[begin + 7 : end] = b"\xff" * (end - begin - 7)
    (tmp_path / "first.aac").write_bytes(first)
    (tmp_path / "every.aac").write_bytes(every)
    assert probe(tmp_path / "first.aac").has_audio
    assert len(read_audio(tmp_path / "first.aac")) / 16_000 > 3.9
    with pytest.raises(InputError) as error:
        read_audio(tmp_path / "every.aac")
    assert error.value.code is ErrorCode.unreadable_media and "damaged or missing (99%)" in str(error.value)


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture, length: int) -> None:
    content = bytearray(encode_sound(tmp_path / "a.wav", burst_track(1.5, ONSETS)[None], "pcm_s16le").read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    assert_bursts(read_every_way(tmp_path / "b.wav"), ONSETS)
    assert notes(caplog) == []


def test_the_readable_formats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nut"
    encode_sound(path, burst_track(0.5, [0.1])[None], "pcm_s16le")
    with raises_input_error(ErrorCode.unreadable_media, "path", str(path)) as error:
        read_audio(path)
    assert "WavPack" in str(error.value) and "\n" not in str(error.value)

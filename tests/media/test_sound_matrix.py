"""Reading sound: bursts of tone keep their place and level in every container, layout and track."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fantasytalking.media import probe, read_audio, read_frames_at, read_video
from tests.media.sound_files import (
    AAC_DELAY,
    AC3_DELAY,
    BURST_LEVEL,
    MP2_DELAY,
    MP3_DELAY,
    RATE,
    assert_bursts,
    burst_track,
    encode_sound,
    encode_tracks,
    notes,
    read_every_way,
)

ONSETS = (0.25, 0.75, 1.25)
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

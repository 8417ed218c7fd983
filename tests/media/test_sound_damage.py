"""Reading sound: what cannot be decoded is silent and noted, or the file is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import probe, read_audio
from fantasytalking.media.audio import iter_audio
from tests.helpers.errors import raises_input_error
from tests.media.sound_files import (
    RATE,
    assert_bursts,
    burst_track,
    damaged,
    encode_sound,
    notes,
    onsets_and_levels,
    read_every_way,
)

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
    content = bytearray(
        encode_sound(tmp_path / "a.wav", burst_track(1.0, [0.25, 0.75])[None], "pcm_s16le").read_bytes()
    )
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    assert_bursts(read_every_way(tmp_path / "b.wav"), [0.25, 0.75])
    assert notes(caplog) == []


def test_the_readable_formats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nut"
    encode_sound(path, burst_track(0.5, [0.1])[None], "pcm_s16le")
    with raises_input_error(ErrorCode.unreadable_media, "path", str(path)) as error:
        read_audio(path)
    assert "WavPack" in str(error.value) and "\n" not in str(error.value)

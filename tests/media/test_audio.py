"""Reading audio: every container, the video's clock, damaged files."""

import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import probe, read_audio, write_video
from tests.helpers.errors import raises_input_error

RATE = 44100


def clicks(path: Path, seconds: float = 2.0, at: float = 1.0, channels: int = 1) -> Path:
    """A wav of a quiet tone with a loud click at one second."""
    time = np.arange(int(seconds * RATE)) / RATE
    sound = 0.05 * np.sin(2 * np.pi * 220 * time)
    sound[int(at * RATE) : int(at * RATE) + 200] = 0.9
    block = np.repeat((sound * 32767).astype("<i2")[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(block.tobytes())
    return path


def click_time(sound: np.ndarray, rate: int = 16000) -> float:
    return float(np.flatnonzero(np.abs(sound) > 0.4)[0]) / rate


def ffmpeg(*arguments: str) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *arguments], check=True)


def test_the_channel_count_may_change_within_a_file(tmp_path: Path) -> None:
    for name, channels in (("one", 1), ("two", 2)):
        clicks(tmp_path / f"{name}.wav", channels=channels)
        ffmpeg("-i", str(tmp_path / f"{name}.wav"), "-c:a", "mp2", str(tmp_path / f"{name}.ts"))
    whole = (tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(whole)
    sound = read_audio(tmp_path / "both.ts")
    assert len(sound) / 16000 >= 2.0 and click_time(sound[:32000]) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("suffix", ["mpg", "ts"])
@pytest.mark.parametrize("start", [1.5, 3.0])
def test_streams_without_an_index_are_read_from_anywhere(tmp_path: Path, suffix: str, start: float) -> None:
    source = clicks(tmp_path / "a.wav", seconds=6.0, at=4.0)
    video = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=25:duration=6"]
    ffmpeg(*video, "-i", str(source), "-c:v", "mpeg2video", "-c:a", "mp2", "-g", "50", str(tmp_path / f"a.{suffix}"))
    sound = read_audio(tmp_path / f"a.{suffix}", start=start, duration=2.9)
    assert click_time(sound) == pytest.approx(4.0 - start, abs=0.06)


def test_an_unknown_codec_is_refused(tmp_path: Path) -> None:
    content = bytearray(clicks(tmp_path / "a.wav").read_bytes())
    content[20:22] = b"\x99\x99"  # the format's tag
    (tmp_path / "b.wav").write_bytes(content)
    for read in (probe, read_audio):
        with raises_input_error(ErrorCode.unsupported, "audio", str(tmp_path / "b.wav")):
            read(tmp_path / "b.wav")


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    sound = read_audio(clicks(tmp_path / "a.wav", channels=channels), sample_rate=RATE)
    assert len(sound) == 2 * RATE
    assert click_time(sound, RATE) == pytest.approx(1.0, abs=0.001)


def test_a_segment_equals_that_part_of_the_whole_file(tmp_path: Path) -> None:
    for suffix in ("wav", "mp3", "m4a", "flac"):
        path = tmp_path / f"a.{suffix}"
        clicks(tmp_path / "source.wav", seconds=6.0, at=4.0)
        ffmpeg("-i", str(tmp_path / "source.wav"), str(path))
        whole, part = read_audio(path), read_audio(path, start=3.5, duration=1.0)
        assert len(part) == 16000
        assert click_time(part) == pytest.approx(0.5, abs=0.005), suffix
        assert np.corrcoef(part, whole[56000:72000])[0, 1] > 0.99


def test_audio_that_starts_later_is_preceded_by_silence(tmp_path: Path) -> None:
    write_video(tmp_path / "picture.mp4", [np.zeros((64, 64, 3), np.uint8)] * 100, fps=25)
    clicks(tmp_path / "a.wav")
    for suffix in ("mp4", "mkv"):
        ffmpeg(
            "-i",
            str(tmp_path / "picture.mp4"),
            "-itsoffset",
            "0.5",
            "-i",
            str(tmp_path / "a.wav"),
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-c:v",
            "copy",
            str(tmp_path / f"late.{suffix}"),
        )
        sound = read_audio(tmp_path / f"late.{suffix}")
        assert np.abs(sound[: int(0.47 * 16000)]).max() < 0.01
        assert click_time(sound) == pytest.approx(1.5, abs=0.01), suffix


def test_audio_before_the_first_frame_is_cut_off(tmp_path: Path) -> None:
    write_video(tmp_path / "picture.mp4", [np.zeros((64, 64, 3), np.uint8)] * 50, fps=25)
    ffmpeg(
        "-itsoffset",
        "0.5",
        "-i",
        str(tmp_path / "picture.mp4"),
        "-i",
        str(clicks(tmp_path / "a.wav")),
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        str(tmp_path / "early.mkv"),
    )
    assert click_time(read_audio(tmp_path / "early.mkv")) == pytest.approx(0.5, abs=0.01)


def test_audio_of_a_written_video_keeps_its_timing(tmp_path: Path) -> None:
    sound = np.zeros(32000, np.float32)
    sound[16000:16200] = 0.8
    write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 50, fps=25, audio=sound)
    assert click_time(read_audio(tmp_path / "a.mp4")) == pytest.approx(1.0, abs=0.004)


def test_videos_without_audio_and_empty_audio_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5, fps=25)
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "a.mp4")):
        read_audio(tmp_path / "a.mp4")
    clicks(tmp_path / "empty.wav", seconds=0.0, at=-1)
    with pytest.raises(InputError) as error:
        read_audio(tmp_path / "empty.wav")
    assert error.value.code is ErrorCode.unreadable_media and "\n" not in str(error.value)
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "b.wav")) as caught:
        read_audio(clicks(tmp_path / "b.wav"), start=9)
    assert "after 9 s" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("sample_rate", 1), ("start", -0.1), ("duration", 0), ("start", float("inf"))]
)
def test_invalid_arguments(tmp_path: Path, field: str, value: float) -> None:
    with raises_input_error(ErrorCode.out_of_range, field, value):
        read_audio(clicks(tmp_path / "a.wav"), **{field: value})  # type: ignore[arg-type]
    with raises_input_error(ErrorCode.out_of_range, "start"):
        read_audio(tmp_path / "a.wav", start=float("nan"))


def test_samples_that_are_nan_are_refused(tmp_path: Path) -> None:
    header = bytes.fromhex(
        "5249464600000000574156 45666d7420100000000300010040 1f0000007d000004002000".replace(" ", "")
    )
    block = np.full(8000, np.nan, "<f4").tobytes()
    (tmp_path / "nan.wav").write_bytes(header + b"data" + len(block).to_bytes(4, "little") + block)
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "nan.wav")) as caught:
        read_audio(tmp_path / "nan.wav")
    assert "NaN" in str(caught.value)


def test_real_recordings(real_media: Path) -> None:
    paths = list((real_media / "speech").iterdir())
    assert paths
    for path in paths:
        sound = read_audio(path)
        assert len(sound) / 16000 == pytest.approx(10.0, abs=0.03)
        assert 0.1 < np.abs(sound).max() <= 1

"""Chosen frames of a video: the pixels of streaming, whichever library decodes them."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import frame_access, iter_frames, read_frames_at, write_video
from tests.helpers.errors import raises_input_error


def numbered(count: int) -> list[np.ndarray]:
    """Gray frames whose brightness is their number."""
    return [np.full((48, 64, 3), number % 250, np.uint8) for number in range(count)]


def ffmpeg(*arguments: str) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *arguments], check=True)


@pytest.fixture
def decoded_by_decord(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that decord decodes."""
    used: list[Path] = []
    original: Callable[..., Any] = frame_access._random_access

    def record(path: Path, *arguments: Any) -> Any:
        used.append(path)
        return original(path, *arguments)

    monkeypatch.setattr(frame_access, "_random_access", record)
    return used


@pytest.fixture
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short videos are decoded by decord too."""
    monkeypatch.setattr(frame_access, "RANDOM_ACCESS_SECONDS", 0.0)


@pytest.mark.parametrize("seconds", [4, 31])
def test_nearest_frames_are_read(tmp_path: Path, seconds: int, decoded_by_decord: list[Path]) -> None:
    write_video(tmp_path / "a.mp4", numbered(5 * seconds), fps=5)
    times = [0.0, 0.1, 0.11, 0.2, 1.27, 2.0, seconds - 0.2, seconds + 5.0]
    shown = [round(float(frame.mean())) for frame in read_frames_at(tmp_path / "a.mp4", times)]
    last = 5 * seconds - 1
    assert np.abs(np.array(shown) - [0, 0, 1, 1, 6, 10, last, last]).max() <= 1
    assert bool(decoded_by_decord) is (seconds >= 30)


@pytest.mark.parametrize("videos", ["talk_*", pytest.param("*", marks=pytest.mark.slow)])
def test_real_videos_have_the_pixels_of_streaming(
    real_media: Path, any_length: None, decoded_by_decord: list[Path], videos: str
) -> None:
    found = sorted((real_media / "videos").glob(f"{videos}.mp4"))
    paths = [path for path in found if "interview" not in path.name]
    assert len(paths) >= 3
    for path in paths:
        streamed = list(iter_frames(path, fps=None))
        chosen = np.linspace(0, len(streamed) - 1, 5).round().astype(int).tolist()
        frames = read_frames_at(path, [streamed[number][0] for number in chosen])
        for frame, number in zip(frames, chosen, strict=True):
            assert np.array_equal(frame, streamed[number][1]), f"{path.name} frame {number}"
    assert decoded_by_decord == paths


@pytest.mark.parametrize(
    ("name", "arguments", "by_decord"),
    [
        ("bt709.mp4", ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"], True),
        ("full_range.mp4", ["-vf", "scale=out_range=pc", "-pix_fmt", "yuvj420p", "-color_range", "pc"], True),
        ("yuv444.mp4", ["-pix_fmt", "yuv444p"], True),
        ("yuv422.mkv", ["-pix_fmt", "yuv422p"], True),
        ("vp8.webm", ["-c:v", "libvpx"], True),
        ("late.mp4", ["-output_ts_offset", "1.5"], True),
        ("ten_bits.mp4", ["-pix_fmt", "yuv420p10le"], False),
        ("wide_pixels.mp4", ["-vf", "setsar=2/1"], False),
        ("stream.ts", [], False),
        ("old.avi", ["-c:v", "mpeg4"], False),
    ],
)
def test_every_color_format_has_the_pixels_of_streaming(
    real_media: Path,
    tmp_path: Path,
    any_length: None,
    decoded_by_decord: list[Path],
    name: str,
    arguments: list[str],
    by_decord: bool,
) -> None:
    source, path = real_media / "videos" / "hdtf_style_256_25fps.mp4", tmp_path / name
    ffmpeg("-i", str(source), "-t", "1", "-an", *arguments, str(path))
    streamed = list(iter_frames(path, fps=None))
    frames = read_frames_at(path, [streamed[number][0] for number in (0, 7, 20)])
    assert all(np.array_equal(frame, streamed[number][1]) for frame, number in zip(frames, (0, 7, 20), strict=True))
    assert bool(decoded_by_decord) is by_decord


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_are_upright(
    real_media: Path, tmp_path: Path, any_length: None, decoded_by_decord: list[Path], degrees: int
) -> None:
    source, path = real_media / "videos" / "two_people_no_sound_23fps.mp4", tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", str(degrees), "-i", str(source), "-t", "1", "-c", "copy", str(path))
    time, expected = list(iter_frames(path, fps=None, duration=0.5))[9]
    assert np.array_equal(read_frames_at(path, [time])[0], expected) and decoded_by_decord


def test_variable_frame_rates_use_true_timestamps(tmp_path: Path, any_length: None) -> None:
    write_video(tmp_path / "even.mp4", numbered(40), fps=20)
    faster = r"settb=1/1000,setpts='if(lt(N,20),N*0.025,0.5+(N-20)*0.05)/TB'"
    clock = ("-fps_mode", "vfr", "-enc_time_base", "1:1000", "-video_track_timescale", "1000")
    ffmpeg("-i", str(tmp_path / "even.mp4"), "-vf", faster, *clock, str(tmp_path / "a.mp4"))
    shown = [round(float(frame.mean())) for frame in read_frames_at(tmp_path / "a.mp4", [0.1, 0.24, 0.76, 1.4])]
    assert np.abs(np.array(shown) - [4, 10, 25, 38]).max() <= 1


@pytest.mark.parametrize("times", [[], [-0.1], [2.0, 1.0], [float("nan")], [float("inf")]])
def test_invalid_times(tmp_path: Path, times: list[float]) -> None:
    with raises_input_error(ErrorCode.out_of_range, "times"):
        read_frames_at(tmp_path / "a.mp4", times)


def test_too_many_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", numbered(5), fps=5)
    monkeypatch.setattr(frame_access, "MAX_VIDEO_BYTES", 3 * 48 * 64 * 2)
    with raises_input_error(ErrorCode.out_of_range, "times", 3):
        read_frames_at(tmp_path / "a.mp4", [0.0, 0.2, 0.4])


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.97])
def test_damaged_files(tmp_path: Path, any_length: None, cut: float) -> None:
    noise = np.random.default_rng(0)
    write_video(tmp_path / "a.mp4", (noise.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(160)), fps=5)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(cut * len(content))])
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "cut.mp4")):
        read_frames_at(tmp_path / "cut.mp4", [0.0, 31.8])

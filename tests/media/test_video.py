"""Reading and writing video: timestamps, resampling, rotation, color, damaged files."""

import re
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.media import iter_frames, probe, read_audio, read_video, write_video
from tests.helpers.errors import raises_input_error


def numbered(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Gray frames whose brightness encodes their number."""
    return [np.full((height, width, 3), 20 + 4 * number, np.uint8) for number in range(count)]


def numbers(frames: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def smooth_picture(height: int = 96, width: int = 128) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / width, y * 255 / height, 255 - (x + y) * 255 / (height + width)], -1).astype(np.uint8)


def ffmpeg(*arguments: str) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *arguments], check=True)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.mp4"
    write_video(path, numbered(40), fps=20)
    return path


def test_what_is_written_is_read_back(plain: Path) -> None:
    video = read_video(plain)
    assert numbers(video.frames) == list(range(40))
    assert video.times == pytest.approx(np.arange(40) / 20)
    assert video.fps == 20
    assert probe(plain)[:7] == (2.0, 20.0, 40, 64, 48, True, False)


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 23.976, 12.5])
def test_rates_are_kept(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "a.mp4", numbered(20), fps=fps)
    assert probe(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-3)
    assert read_video(tmp_path / "a.mp4").times == pytest.approx(np.arange(20) / fps, abs=1e-3)


def test_resampling_takes_the_nearest_frame(plain: Path) -> None:
    slower = read_video(plain, fps=8)
    assert slower.times == pytest.approx(np.arange(16) / 8)
    for time, number in zip(slower.times, numbers(slower.frames), strict=True):
        assert abs(number / 20 - time) <= 0.025 + 1e-9
    faster = read_video(plain, fps=50)
    assert len(faster.times) == 100
    assert np.abs(np.array(numbers(faster.frames)) / 20 - faster.times).max() <= 0.0401  # the last frame is held


def test_resampling_to_the_same_rate_changes_nothing(plain: Path) -> None:
    assert numbers(read_video(plain, fps=20).frames) == list(range(40))


def test_a_segment_keeps_the_timestamps_of_the_file(plain: Path) -> None:
    part = read_video(plain, start=1.5, duration=0.25)
    assert part.times == pytest.approx([1.5, 1.55, 1.6, 1.65, 1.7])
    assert numbers(part.frames) == [30, 31, 32, 33, 34]
    grid = read_video(plain, fps=10, start=1.2, duration=0.5)
    assert grid.times == pytest.approx([1.2, 1.3, 1.4, 1.5, 1.6])
    assert numbers(grid.frames) == [24, 26, 28, 30, 32]


def test_variable_frame_rates_keep_their_timestamps(tmp_path: Path, plain: Path) -> None:
    # The first second at twice the speed: stamps 0, .025, ... then 0.5, .55, ...
    faster = r"settb=1/1000,setpts='if(lt(N,20),N*0.025,0.5+(N-20)*0.05)/TB'"
    clock = ("-fps_mode", "vfr", "-enc_time_base", "1:1000", "-video_track_timescale", "1000")
    ffmpeg("-i", str(plain), "-vf", faster, *clock, str(tmp_path / "variable.mp4"))
    expected = np.concatenate([np.arange(20) * 0.025, 0.5 + np.arange(20) * 0.05])
    video = read_video(tmp_path / "variable.mp4")
    assert video.times == pytest.approx(expected, abs=2e-3)
    even = read_video(tmp_path / "variable.mp4", fps=20)
    shown = numbers(even.frames)
    assert np.abs(expected[shown] - even.times).max() <= 0.0271
    assert len(even.times) == pytest.approx(1.5 * 20, abs=1)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_as_ffmpeg_does(tmp_path: Path, degrees: int) -> None:
    picture = smooth_picture()
    write_video(tmp_path / "upright.mp4", [picture] * 3, fps=25)
    turned, baked = tmp_path / "turned.mp4", tmp_path / "baked.mp4"
    ffmpeg("-display_rotation", str(degrees), "-i", str(tmp_path / "upright.mp4"), "-c", "copy", str(turned))
    ffmpeg("-i", str(turned), "-qp", "0", str(baked))  # FFmpeg turns the pixels themselves
    ours, truth = read_video(turned).frames[0], read_video(baked).frames[0]
    assert ours.shape == truth.shape
    assert np.abs(ours.astype(int) - truth).mean() < 2
    information = probe(turned)
    assert (information.height, information.width) == ours.shape[:2]


def test_non_square_pixels_are_made_square(tmp_path: Path, plain: Path) -> None:
    ffmpeg("-i", str(plain), "-vf", "setsar=2/1", str(tmp_path / "wide.mp4"))
    assert read_video(tmp_path / "wide.mp4").frames.shape[1:] == (48, 128, 3)
    assert probe(tmp_path / "wide.mp4").width == 128


def test_colors_survive(tmp_path: Path) -> None:
    picture = smooth_picture()
    write_video(tmp_path / "a.mp4", [picture] * 5, fps=25)
    for frame in read_video(tmp_path / "a.mp4").frames:
        assert np.abs(frame.astype(int) - picture).mean() < 2


def test_color_tags_are_written_and_respected(tmp_path: Path) -> None:
    import av

    write_video(tmp_path / "a.mp4", [smooth_picture()] * 5, fps=25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    # The same image with the older matrix, tagged so, is read with the same colors.
    ffmpeg(
        "-i",
        str(tmp_path / "a.mp4"),
        "-vf",
        "scale=in_color_matrix=bt709:out_color_matrix=smpte170m",
        "-colorspace",
        "smpte170m",
        "-qp",
        "0",
        str(tmp_path / "old.mp4"),
    )
    new, old = (read_video(tmp_path / name).frames[0].astype(int) for name in ("a.mp4", "old.mp4"))
    assert np.abs(new - old).mean() < 3  # 7.4 with the wrong matrix


def test_video_and_audio_end_together(tmp_path: Path) -> None:
    for seconds in (0.5, 3.0):
        write_video(tmp_path / "a.mp4", numbered(50), fps=25, audio=np.full(int(16000 * seconds), 0.1, np.float32))
        sound = read_audio(tmp_path / "a.mp4")
        assert len(sound) / 16000 == pytest.approx(2.0, abs=0.04)
        import av

        with av.open(str(tmp_path / "a.mp4")) as container:
            lengths = [float(stream.duration * stream.time_base) for stream in container.streams]
        assert abs(lengths[0] - lengths[1]) < 0.04


def test_same_input_gives_the_same_file(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, fps=25, audio=np.zeros(8000, np.float32))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", (np.full((256, 256, 3), n % 200, np.uint8) for n in range(400)), fps=25)
    tracemalloc.start()
    count = sum(1 for _ in iter_frames(tmp_path / "long.mp4", fps=None))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 400
    assert peak < 20 * 256 * 256 * 3


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is no video\n" * 40, b"#EXTM3U\n#EXTINF:1,\n/etc/hosts\n", b"\0" * 5000]
)
def test_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    for read in (probe, read_video, read_audio, lambda p: next(iter_frames(p, fps=25))):
        with raises_input_error(ErrorCode.unreadable_media, "path", str(path)) as error:
            read(path)
        assert "fake.mp4" in one_line(error)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(InputError):
            probe(path)


def test_a_truncated_file_yields_its_intact_frames_then_the_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (128, 128, 3), np.uint8) for _ in range(100))
    write_video(tmp_path / "whole.mp4", frames, fps=25)
    content = (tmp_path / "whole.mp4").read_bytes()  # the index is at the front
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    times: list[float] = []
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "cut.mp4")) as error:
        times.extend(time for time, _ in iter_frames(tmp_path / "cut.mp4", fps=None))
    assert 10 < len(times) < 90
    assert "cut.mp4" in one_line(error)
    (tmp_path / "head.mp4").write_bytes(content[:300])
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "head.mp4")):
        probe(tmp_path / "head.mp4")


@pytest.mark.parametrize("start", [3.0, 7.32])
def test_a_segment_far_from_a_key_frame_is_read(tmp_path: Path, start: float) -> None:
    write_video(tmp_path / "a.mp4", numbered(250), fps=25)
    ffmpeg("-i", str(tmp_path / "a.mp4"), "-c:v", "libx264", "-g", "250", "-bf", "0", str(tmp_path / "a.ts"))
    whole = read_video(tmp_path / "a.ts", fps=25)
    part = read_video(tmp_path / "a.ts", fps=25, start=start, duration=1.0)
    first = round(start * 25)
    assert numbers(part.frames) == numbers(whole.frames[first : first + 25])


def test_a_missing_tail_is_reported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_video(tmp_path / "a.mp4", (rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(300)), fps=5)
    ffmpeg("-i", str(tmp_path / "a.mp4"), "-c", "copy", str(tmp_path / "a.mkv"))
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: int(len(content) * 0.97)])
    times: list[float] = []
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "cut.mkv")) as error:
        times.extend(time for time, _ in iter_frames(tmp_path / "cut.mkv", fps=5))
    assert re.search(r"breaks off at 5\d\.\d\d s of the 60\.\d\d s", str(error.value))
    assert len(times) < 0.985 * 300


def test_an_encoder_error_is_not_reported_as_unreadable(tmp_path: Path) -> None:
    sound = np.zeros(12345, np.float32)
    with raises_input_error(ErrorCode.output_exists, "path", str(tmp_path / "a.mp4")):
        write_video(tmp_path / "a.mp4", numbered(25), fps=25, audio=sound, sample_rate=12345)
    assert list(tmp_path.iterdir()) == []


def test_audio_files_have_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=440:duration=1", str(tmp_path / "a.wav"))
    assert probe(tmp_path / "a.wav") == (1.0, 0.0, 0, 0, 0, False, True, 44100)
    with raises_input_error(ErrorCode.unreadable_media, "path", str(tmp_path / "a.wav")):
        read_video(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fps", 0),
        ("fps", 1000),
        ("start", -1),
        ("start", float("inf")),
        ("duration", 0),
        ("start", 50),
        ("max_frames", 5),
    ],
)
def test_invalid_arguments(plain: Path, field: str, value: float) -> None:
    with raises_input_error(ErrorCode.out_of_range, field, value) as error:
        read_video(plain, **{field: value})  # type: ignore[arg-type]
    one_line(error)
    with raises_input_error(ErrorCode.out_of_range, "fps"):
        read_video(plain, fps=float("nan"))


@pytest.mark.parametrize(
    ("frames", "code", "value"),
    [
        ([], ErrorCode.missing_value, None),
        ([np.zeros((63, 64, 3), np.uint8)], ErrorCode.out_of_range, (63, 64, 3)),
        ([np.zeros((64, 64, 3), np.float32)], ErrorCode.shape_mismatch, (64, 64, 3)),
        ([np.zeros((64, 64), np.uint8)], ErrorCode.shape_mismatch, (64, 64)),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)], ErrorCode.shape_mismatch, (32, 64, 3)),
    ],
)
def test_invalid_frames_leave_no_file(
    tmp_path: Path, frames: list[np.ndarray], code: ErrorCode, value: tuple[int, ...] | None
) -> None:
    with raises_input_error(code, "frames", value) as error:
        write_video(tmp_path / "a.mp4", frames, fps=25)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_real_files_give_as_many_frames_as_they_last(real_media: Path) -> None:
    paths = sorted((real_media / "videos").glob("talk_*.mp4"))
    assert paths
    for path in paths:
        information = probe(path)
        frames = sum(1 for _ in iter_frames(path, fps=25))
        assert abs(frames / 25 - information.duration) <= 1 / 25
        assert abs(len(read_audio(path)) / 16000 - information.duration) <= 1 / 25

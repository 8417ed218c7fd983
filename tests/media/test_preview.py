"""Animated previews: what is written is played back, and what cannot be written leaves no file."""

import runpy
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from fantasytalking.common.errors import ErrorCode
from fantasytalking.media import preview, read_image, write_preview, write_video
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT


def waves(count: int) -> list[np.ndarray]:
    y, x = np.mgrid[0:32, 0:48]
    return [np.stack([x * 5, y * 7, (x + 8 * number) * 4 % 256], -1).astype(np.uint8) for number in range(count)]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("count", [1, 6])
def test_frames_and_durations_come_back(tmp_path: Path, suffix: str, count: int) -> None:
    frames = waves(count)
    write_preview(tmp_path / f"a{suffix}", frames, fps=12.5)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert getattr(image, "n_frames", 1) == count
        image.seek(count - 1)
        image.load()
        assert count == 1 or image.info["loop"] == 0
        assert count == 1 or image.info["duration"] == 80
    read = imageio.imread(tmp_path / f"a{suffix}", index=...)[..., :3]
    assert read.shape == (count, 32, 48, 3)
    assert np.abs(read.astype(int) - np.stack(frames)).mean() < 20
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - frames[0]).mean() < 20


@pytest.mark.parametrize(
    ("name", "frames", "fps", "code", "field", "value"),
    [
        ("a.mp4", waves(2), 10, ErrorCode.invalid_choice, "path", ".mp4"),
        ("a.gif", waves(2), 0, ErrorCode.out_of_range, "fps", 0),
        ("a.gif", waves(2), 51, ErrorCode.out_of_range, "fps", 51),
        ("a.webp", [], 10, ErrorCode.missing_value, "frames", None),
        ("a.webp", waves(9), 10, ErrorCode.out_of_range, "frames", 8),
        ("a.webp", [*waves(1), waves(1)[0][:16]], 10, ErrorCode.shape_mismatch, "frames", (16, 48, 3)),
        ("a.webp", [waves(1)[0] / 255], 10, ErrorCode.shape_mismatch, "frames", (32, 48, 3)),
        ("a.webp", [waves(1)[0][..., 0]], 10, ErrorCode.shape_mismatch, "frames", (32, 48)),
    ],
)
def test_invalid_previews_leave_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    frames: list[np.ndarray],
    fps: float,
    code: ErrorCode,
    field: str,
    value: object,
) -> None:
    monkeypatch.setattr(preview, "MAX_PREVIEW_FRAMES", 8)
    with raises_input_error(code, field, value):
        write_preview(tmp_path / name, frames, fps=fps)
    assert list(tmp_path.iterdir()) == []


def test_previews_have_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preview, "MAX_PREVIEW_BYTES", waves(1)[0].nbytes * 3)
    write_preview(tmp_path / "a.gif", waves(3), fps=10)
    with raises_input_error(ErrorCode.out_of_range, "frames", 3):
        write_preview(tmp_path / "b.gif", waves(4), fps=10)
    write_video(tmp_path / "flat.mp4", [np.zeros((16, 640, 3), np.uint8)] * 2, fps=10)
    for size, output in ((["--height", 2160], "c.gif"), (["--height", 2000, "--frames", 100], "c.png")):
        with pytest.raises(SystemExit) as stopped:
            run_preview_script(monkeypatch, "--input", tmp_path / "flat.mp4", *size, "--output", tmp_path / output)
        assert stopped.value.code == 2 and "limit is" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "flat.mp4"]


def run_preview_script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    script = str(ROOT / "scripts" / "preview.py")
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(script, run_name="__main__")


def test_the_script_writes_animations_and_contact_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", waves(50), fps=25)
    size = ["--input", tmp_path / "a.mp4", "--height", 16]
    run_preview_script(monkeypatch, *size, "--output", tmp_path / "a.webp", "--seconds", 1, "--fps", 10)
    assert imageio.imread(tmp_path / "a.webp", index=...).shape == (10, 16, 24, 3)
    run_preview_script(monkeypatch, *size, "--output", tmp_path / "a.png", "--frames", 3)
    assert read_image(tmp_path / "a.png").shape == (8 + 16 + 8 + 22, 8 + 3 * (16 + 8), 3)


def test_the_script_refuses_an_impossible_height(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_preview_script(monkeypatch, "--input", "a.mp4", "--output", tmp_path / "a.gif", "--height", 0)
    assert stopped.value.code == 2 and "--height is 0" in capsys.readouterr().err

"""Scene cuts: found exactly, not confused with motion, and independent of the spans."""

from pathlib import Path

import numpy as np
import pytest

from fantasytalking.data.prepare import scenes as prepare_scenes
from fantasytalking.data.prepare.scenes import SpanScan, iter_scenes, scan_span, span_starts, video_end
from fantasytalking.media import write_video


def picture(seed: int) -> np.ndarray:
    """A blocky random image, 96 x 160."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), dtype=np.uint8))


def made_video(path: Path, lengths: list[int], fps: float = 25.0) -> Path:
    """Writes scenes of the given lengths, each an image that pans by 2 pixels per frame and flickers."""
    frames = []
    for seed, length in enumerate(lengths):
        for number in range(length):
            moved = np.roll(picture(seed), 2 * number, axis=1).astype(float) * (1 + 0.05 * (number % 2))
            frames.append(moved.clip(0, 255).astype(np.uint8))
    write_video(path, frames, fps=fps)
    return path


def test_cuts_are_found_exactly(tmp_path: Path) -> None:
    video = made_video(tmp_path / "cuts.mp4", [30, 17, 45])
    scan = scan_span(video, 0.0, 0.35)
    assert scan.cuts == pytest.approx([30 / 25, 47 / 25]) and scan.end == pytest.approx(92 / 25) and scan.error == ""
    found = list(iter_scenes([scan], 0.0, 1e9))
    assert np.allclose(found, [(0, 1.2), (1.2, 1.88), (1.88, 3.68)])


def test_motion_is_not_a_cut(tmp_path: Path) -> None:
    assert scan_span(made_video(tmp_path / "one.mp4", [100]), 0.0, 0.35).cuts == []


def test_a_real_talking_face_has_no_cut(real_media: Path) -> None:
    for name in ("talk_29.97fps.mp4", "interview_vertical_25fps.mp4"):
        assert scan_span(real_media / "videos" / name, 0.0, 0.35).cuts == []


def test_spans_find_the_cuts_of_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = made_video(tmp_path / "cuts.mp4", [30, 20, 25, 50])  # cuts at 1.2, 2.0 and 3.0 s
    whole = scan_span(video, 0.0, 0.35)
    monkeypatch.setattr(prepare_scenes, "SPAN_SECONDS", 1.0)
    scans = [scan_span(video, start, 0.35) for start in span_starts(5.0)]
    assert len(scans) == 5
    assert whole.cuts == pytest.approx([1.2, 2.0, 3.0])
    assert [cut for scan in scans for cut in scan.cuts] == whole.cuts
    assert video_end(scans) == pytest.approx(whole.end)


def test_a_video_that_breaks_off_ends_there(tmp_path: Path) -> None:
    video = made_video(tmp_path / "cut.mp4", [50, 100])
    whole = video.read_bytes()
    video.write_bytes(whole[: int(len(whole) * 0.7)])
    scan = scan_span(video, 0.0, 0.35)
    assert 2.0 < scan.end < 6.0 and "cut.mp4" in scan.error and scan.cuts == [2.0]


def test_scenes_stay_within_the_time_range_and_the_video() -> None:
    scans = [SpanScan([10.0], 60.0, ""), SpanScan([70.0], 90.0, "breaks off"), SpanScan([], 120.0, "breaks off")]
    assert video_end(scans) == 90.0
    assert list(iter_scenes(scans, 5.0, 65.0)) == [(5.0, 10.0), (10.0, 65.0)]
    assert list(iter_scenes(scans, 60.0, 500.0)) == [(60.0, 70.0), (70.0, 90.0)]
    assert list(iter_scenes(scans, 95.0, 100.0)) == []

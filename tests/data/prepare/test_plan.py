"""Planned clips: files, time ranges, clips of a scene, and names that never change."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.manifest import Rejection, RejectionReason
from fantasytalking.data.prepare import plan as prepare_plan
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.plan import (
    RelativeCrop,
    SceneClip,
    TimeRange,
    VideoFile,
    find_videos,
    plan_video,
    probe_video,
    read_time_ranges,
    spans_to_scan,
    time_ranges_for,
)
from fantasytalking.data.prepare.scenes import SpanScan
from fantasytalking.media import write_video
from tests.helpers.errors import raises_input_error

CONFIG = PreparationConfig(base="x", fps=25.0, frames=25, clip_stride=10)
ALL = [TimeRange(0.0, 1e5, None)]


def test_videos_are_found_in_subfolders_and_sorted(tmp_path: Path) -> None:
    for name in ("b/two.MP4", "a.mkv", "b/.hidden.mp4", ".cache/c.mp4", "notes.txt", "b/one.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_videos(tmp_path, None)
    assert [file.video for file in found] == ["a.mkv", "b/one.mp4", "b/two.MP4"]
    assert [file.video for file in find_videos(tmp_path, {"b/one": ALL})] == ["b/one.mp4"]
    with raises_input_error(ErrorCode.missing_file, "time_ranges", str(tmp_path)):
        find_videos(tmp_path, {"other": ALL})
    with raises_input_error(ErrorCode.missing_file, "--input", str(tmp_path / "nowhere")):
        find_videos(tmp_path / "nowhere", None)
    (tmp_path / "empty").mkdir()
    with raises_input_error(ErrorCode.missing_file, "--input", str(tmp_path / "empty")):
        find_videos(tmp_path / "empty", None)


def test_names_of_clips_stay_as_they_were(tmp_path: Path) -> None:
    """Files of prepared corpora have these names."""
    file = VideoFile(tmp_path, "a.mp4", 1234)
    assert file.name == "d0-a-f59878f6"
    assert SceneClip(file, 1.5, None).name == "d0-a-f59878f6_00001500"
    assert SceneClip(file, 1.5, RelativeCrop(0.25, 0.1, 1 / 3, 0.9)).name == "d0-a-f59878f6_00001500-499d52"


def test_names_are_safe_and_unique(tmp_path: Path) -> None:
    files = [VideoFile(tmp_path, video, 5) for video in ("a b.mp4", "a_b.mp4", "a/b.mp4", "ä" * 300 + ".mp4")]
    files.append(replace(files[0], size=6))
    names = {file.name for file in files}
    assert len(names) == 5 and all(len(name) < 80 and name.isascii() and "/" not in name for name in names)
    crops = [None, RelativeCrop(0.0, 0.0, 0.5, 0.5)]
    clips = {SceneClip(files[0], start, crop).name for start in (0.0, 1.5) for crop in crops}
    assert len(clips) == 4


def test_clips_of_a_scene_never_leave_it(tmp_path: Path) -> None:
    file = VideoFile(tmp_path, "a.mp4", 5)
    planned = list(plan_video(file, [SpanScan([1.0], 4.0, "")], ALL, CONFIG))
    assert [clip.start for clip in planned] == pytest.approx([0.0, *np.arange(1.0, 3.01, 0.4)])
    assert all(clip.start + CONFIG.duration <= 4.0 + 1e-6 for clip in planned)


def test_short_scenes_damage_and_ranges_after_the_end_are_rejected(tmp_path: Path) -> None:
    file = VideoFile(tmp_path, "a.mp4", 5)
    planned = list(plan_video(file, [SpanScan([0.5], 1.6, "breaks off")], ALL, CONFIG))
    assert [(line.start, line.reason) for line in planned if isinstance(line, Rejection)] == [
        (0.0, RejectionReason.TOO_SHORT),
        (1.6, RejectionReason.DAMAGED),
    ]
    assert [line.start for line in planned if isinstance(line, SceneClip)] == [0.5]
    (nothing,) = plan_video(file, [], [TimeRange(50.0, 60.0, None)], CONFIG)
    assert isinstance(nothing, Rejection) and nothing.reason is RejectionReason.TOO_SHORT


def test_spans_cover_the_time_ranges(tmp_path: Path) -> None:
    file = VideoFile(tmp_path, "a.mp4", 5)
    assert [span.start for span in spans_to_scan(file, 130.0, ALL)] == [0.0, 60.0, 120.0]
    assert [span.start for span in spans_to_scan(file, 7200.0, [TimeRange(100.0, 130.0, None)])] == [60.0, 120.0]
    assert [span.start for span in spans_to_scan(file, 0.0, ALL)] == [0.0], "if the duration is unknown"
    assert spans_to_scan(file, 30.0, [TimeRange(100.0, 130.0, None)])[0].start == 0.0


def test_ranges_are_read_by_name_with_or_without_suffix(tmp_path: Path) -> None:
    path = tmp_path / "ranges.jsonl"
    lines = [
        {"video": "a", "start": 30, "end": 60.5, "crop": [360, 0, 720, 720], "crop_of_height": 720},
        {"video": "a", "start": 5, "end": 10, "crop": None},
        {"video": "b.mp4", "start": 0, "end": 10, "crop": None},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    wanted = read_time_ranges(path)
    assert time_ranges_for(VideoFile(tmp_path, "a.mkv", 1), wanted) == [
        TimeRange(5.0, 10.0, None),
        TimeRange(30.0, 60.5, RelativeCrop(0.5, 0.0, 1.0, 1.0)),
    ]
    assert len(time_ranges_for(VideoFile(tmp_path, "b.mp4", 1), wanted)) == 1
    assert len(time_ranges_for(VideoFile(tmp_path, "part/a.mp4", 1), wanted)) == 2
    assert time_ranges_for(VideoFile(tmp_path, "c.mp4", 1), wanted) == []
    framed = {"video": "a", "start": 1, "end": 3, "crop": [0, 0, 100, 100], "crop_of_height": 100}
    path.write_text(f"{json.dumps(framed)}\n{json.dumps(framed)}\n")
    assert len(read_time_ranges(path)["a"]) == 1
    impossible = ({**framed, "crop_of_height": 0}, {**framed, "crop": [float("nan"), 0, 100, 100]})
    for broken in ({"video": "a", "start": 9, "end": 3, "crop": None}, {"video": "a"}, [1], *impossible):
        path.write_text(json.dumps(lines[0]) + "\n" + json.dumps(broken))
        with raises_input_error(ErrorCode.malformed_file, "time_ranges", 2):
            read_time_ranges(path)
    path.write_bytes(b"\xff\xfe\x00")
    with raises_input_error(ErrorCode.malformed_file, "time_ranges", str(path)):
        read_time_ranges(path)
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        read_time_ranges(tmp_path / "nothing.jsonl")


def test_unusable_files_have_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.full((32, 32, 3), 9 * number, dtype=np.uint8) for number in range(20)]
    write_video(tmp_path / "mute.mp4", frames, fps=25)
    write_video(tmp_path / "slow.mp4", frames, fps=10, audio=np.zeros(32000, np.float32))
    write_video(tmp_path / "good.mp4", frames, fps=25, audio=np.zeros(12800, np.float32))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 40)
    found = {file.video: probe_video(file, CONFIG) for file in find_videos(tmp_path, None)}
    assert {name: result.get("reason") for name, result in found.items()} == {
        "mute.mp4": "no_sound",
        "slow.mp4": "low_frame_rate",
        "good.mp4": None,
        "empty.mp4": "unreadable",
        "junk.mp4": "unreadable",
    }
    assert found["good.mp4"]["duration"] == pytest.approx(0.8)
    monkeypatch.setattr(prepare_plan, "MAX_SOURCE_SECONDS", 0.5)
    good = VideoFile(tmp_path / "good.mp4", "good.mp4", 1)
    assert probe_video(good, CONFIG)["reason"] == "too_long"

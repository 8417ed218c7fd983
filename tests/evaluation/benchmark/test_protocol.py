"""A protocol freezes what counts: the same copy gives the same id, and nothing else does."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import ClipRecord, write_records
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, DatasetLayout
from fantasytalking.evaluation.benchmark.freeze import freeze_videos, identify_clip
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.media import write_video
from tests.evaluation.conftest import world_config


def test_every_clip_is_frozen_with_its_length_and_hash(world: Path, protocol: BenchmarkProtocol) -> None:
    assert {clip.name for clip in protocol.clips} == {path.name for path in world.glob("id*")}
    order = [hashlib.md5(clip.name.encode(), usedforsecurity=False).hexdigest() for clip in protocol.clips]
    assert order == sorted(order)
    for clip in protocol.clips:
        truth = json.loads((world / clip.name / "truth.json").read_text())
        assert clip.frames == len(truth["frames"]) == len(protocol.reference_clip(clip, world).frames)
        assert clip.sha256 == hashlib.sha256((world / clip.video).read_bytes()).hexdigest()
        assert clip.identity == clip.name[:6]


def test_the_id_depends_on_all_that_counts(world: Path, protocol: BenchmarkProtocol, tmp_path: Path) -> None:
    assert freeze_videos("portrait_world", world, world_config()).id == protocol.id
    others = {
        freeze_videos("portrait_world", world, world_config(override)).id
        for override in ("max_seconds=1", "width=64", "max_clips=3", "max_clips_per_identity=1", "max_extra_frames=1")
    }
    assert len(others | {protocol.id}) == 6
    protocol.save(tmp_path / "protocol.json")
    assert BenchmarkProtocol.load(tmp_path / "protocol.json") == protocol
    text = (tmp_path / "protocol.json").read_text()
    assert protocol.id in text


def test_pictures_of_another_shape_are_cropped_around_the_face(world: Path) -> None:
    frozen = freeze_videos("portrait_world", world, world_config("width=64"))
    for clip in frozen.clips:
        assert clip.crop is not None
        left, top, across, down = clip.crop
        assert across / down == pytest.approx(64 / 96, abs=0.01) and top == 0 and 0 < left < 1 - across
    assert frozen.reference_clip(frozen.clips[0], world).frames.shape[1:3] == (96, 64)


def test_limits_and_people(world: Path, tmp_path: Path) -> None:
    short = freeze_videos("portrait_world", world, world_config("max_seconds=1", "max_clips_per_identity=1"))
    assert [clip.frames for clip in short.clips] == [25, 25]
    assert {clip.identity for clip in short.clips} == {"id1000", "id1001"}
    record = ClipRecord(
        clip="a",
        video="id1000_s0007/video.mp4",
        start=0.0,
        duration=0.36,
        fps=25.0,
        frames=9,
        width=96,
        height=96,
        expression=0.5,
        body=0.5,
        expression_measure=0.1,
        body_measure=0.1,
        face_size=30.0,
        features="features/a.safetensors",
    )
    write_records(tmp_path / "manifest.jsonl", [record])
    left = freeze_videos("portrait_world", world, world_config(f"training_manifests=[{tmp_path / 'manifest.jsonl'}]"))
    assert {clip.identity for clip in left.clips} == {"id1001"}
    with pytest.raises(InputError, match="min_seconds"):
        freeze_videos("portrait_world", world, world_config("min_seconds=9"))
    with pytest.raises(InputError, match="no video laid out as mead"):
        freeze_videos("mead", world, load_config(BenchmarkConfig, preset_path("benchmarks", "mead")))


def test_hdtf_takes_the_first_long_stretch_and_its_crop(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 40, 60, 3), dtype=np.uint8)
    sound = np.zeros(30 * 640, np.float32)
    for name in ("DianeBlack0", "DianeBlack1", "Radio3", "Other"):
        write_video(tmp_path / "videos" / f"{name}.mp4", frames, fps=25, audio=sound)
    lines = [
        {"video": name, "start": start, "end": end, "crop": [15, 5, 30, 30], "crop_of_height": 40}
        for name in ("DianeBlack0", "DianeBlack1", "Radio3")
        for start, end in ((0.0, 0.3), (0.4, 9.0))
    ]
    (tmp_path / "ranges.jsonl").write_text("\n".join(map(json.dumps, lines)))
    overrides = [f"ranges={tmp_path / 'ranges.jsonl'}", "max_seconds=0.6", "min_seconds=0.6", "width=32", "height=32"]
    config = load_config(BenchmarkConfig, preset_path("benchmarks", "hdtf"), overrides)
    frozen = freeze_videos("hdtf", tmp_path / "videos", config)
    assert len(frozen.clips) == 2  # one person has two videos, and Other is not HDTF's
    assert {clip.identity for clip in frozen.clips} == {"DianeBlack", "Radio3"}
    for clip in frozen.clips:
        assert (clip.start, clip.frames, clip.crop) == (0.4, 15, (0.375, 0.125, 0.75, 0.75))
        assert frozen.reference_clip(clip, tmp_path / "videos").frames.shape == (15, 32, 32, 3)


@pytest.mark.parametrize(
    ("layout", "video", "expected"),
    [
        (DatasetLayout.mead, "M003/video/front/angry/level_1/004.mp4", ("M003-front-angry-level_1-004", "M003")),
        (DatasetLayout.mead, "MEAD_W009_video_front_happy_level_3_017.mp4", ("W009-front-happy-level_3-017", "W009")),
        (DatasetLayout.mead, "M003/video/left_30/angry/level_1/004.mp4", None),
        (DatasetLayout.hdtf, "WDA/JoeCrowley12.mp4", ("JoeCrowley12", "JoeCrowley")),
        (DatasetLayout.hdtf, "Radio12.mp4", ("Radio12", "Radio12")),
        (DatasetLayout.celebvhq, "a/-0F1owya2oo_3.mp4", ("v-0F1owya2oo_3", "-0F1owya2oo")),
        (DatasetLayout.portrait_world, "g1/id0004_s0002/video.mp4", ("g1-id0004_s0002", "id0004")),
        (DatasetLayout.portrait_world, "id0004_s0002/other.mp4", None),
    ],
)
def test_names_tell_who_it_is(layout: DatasetLayout, video: str, expected: tuple[str, str] | None) -> None:
    assert identify_clip(video, layout) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values["clips"][0].update(video="../../etc/passwd"), r"of '\.\./\.\./etc/passwd'"),
        (lambda values: values["clips"][0].update(video="/etc/passwd"), "of '/etc/passwd'"),
        (lambda values: values["clips"][0].update(name="../x"), r"clip '\.\./x'"),
        (lambda values: values["clips"][0].update(frames=10**9), "1000000000 frames"),
        (lambda values: values["clips"].append(values["clips"][0]), "5 clips of 4 names"),
        (lambda values: values.update(width=10**6), "1000000x96 pixels"),
        (lambda values: values.pop("clips"), "'clips'"),
        (lambda values: values.update(fps=30.0), "changed by hand"),
        (lambda values: values.update(format=0), "says format 0"),
    ],
)
def test_a_manifest_changed_by_hand_is_refused(
    protocol: BenchmarkProtocol, tmp_path: Path, change: Callable[[dict], object], told: str
) -> None:
    protocol.save(tmp_path / "p.json")
    values = json.loads((tmp_path / "p.json").read_text())
    change(values)
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=told):
        BenchmarkProtocol.load(tmp_path / "p.json")


def test_shipped_settings_are_valid() -> None:
    for path in preset_path("benchmarks", "hdtf").parent.glob("*.yaml"):
        config = load_config(BenchmarkConfig, path)
        assert config.layout.value == path.stem
        assert config.fps == 25

"""Freezing of protocols: equal copies and settings have equal ids, all others differ."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.manifest import ClipRecord, write_records
from fantasytalking.evaluation.benchmark.clip_names import ClipNaming
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
from fantasytalking.evaluation.benchmark.freeze import freeze_videos
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.cli import benchmark_names
from fantasytalking.media import write_video
from tests.evaluation.conftest import world_config
from tests.helpers.errors import raises_input_error

MALFORMED = (ErrorCode.malformed_file, "manifest")
"""Code and field of errors about the content of a manifest."""


def test_clips_are_frozen_with_length_and_hash(world: Path, protocol: BenchmarkProtocol) -> None:
    assert {clip.name for clip in protocol.clips} == {path.name for path in world.glob("id*")}
    order = [hashlib.md5(clip.name.encode(), usedforsecurity=False).hexdigest() for clip in protocol.clips]
    assert order == sorted(order)
    for clip in protocol.clips:
        truth = json.loads((world / clip.name / "truth.json").read_text())
        assert clip.frames == len(truth["frames"]) == len(protocol.reference_clip(clip, world).frames)
        assert clip.sha256 == hashlib.sha256((world / clip.video).read_bytes()).hexdigest()
        assert clip.identity == clip.name[:6]


def test_the_id_depends_on_all_settings(world: Path, protocol: BenchmarkProtocol, tmp_path: Path) -> None:
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


def test_images_of_another_aspect_ratio_are_cropped_around_the_face(world: Path) -> None:
    frozen = freeze_videos("portrait_world", world, world_config("width=64"))
    for clip in frozen.clips:
        assert clip.crop is not None
        left, top, width, height = clip.crop
        assert width / height == pytest.approx(64 / 96, abs=0.01) and top == 0 and 0 < left < 1 - width
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
    with raises_input_error(ErrorCode.out_of_range, "min_seconds", 9.0):
        freeze_videos("portrait_world", world, world_config("min_seconds=9"))
    with raises_input_error(ErrorCode.missing_file, "--references", str(world)):
        freeze_videos("mead", world, load_config(BenchmarkConfig, preset_path("benchmarks", "mead")))


def test_hdtf_uses_the_first_long_segment_and_its_crop(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (30, 40, 60, 3), dtype=np.uint8)
    audio = np.zeros(30 * 640, np.float32)
    for name in ("DianeBlack0", "DianeBlack1", "Radio3", "Other"):
        write_video(tmp_path / "videos" / f"{name}.mp4", frames, fps=25, audio=audio)
    lines = [
        {"video": name, "start": start, "end": end, "crop": [15, 5, 30, 30], "crop_of_height": 40}
        for name in ("DianeBlack0", "DianeBlack1", "Radio3")
        for start, end in ((0.0, 0.3), (0.4, 9.0))
    ]
    (tmp_path / "ranges.jsonl").write_text("\n".join(map(json.dumps, lines)))
    overrides = [f"ranges={tmp_path / 'ranges.jsonl'}", "max_seconds=0.6", "min_seconds=0.6", "width=32", "height=32"]
    config = load_config(BenchmarkConfig, preset_path("benchmarks", "hdtf"), overrides)
    frozen = freeze_videos("hdtf", tmp_path / "videos", config)
    assert len(frozen.clips) == 2  # one person has two videos, and Other is not part of HDTF
    assert {clip.identity for clip in frozen.clips} == {"DianeBlack", "Radio3"}
    for clip in frozen.clips:
        assert (clip.start, clip.frames, clip.crop) == (0.4, 15, (0.375, 0.125, 0.75, 0.75))
        assert frozen.reference_clip(clip, tmp_path / "videos").frames.shape == (15, 32, 32, 3)


@pytest.mark.parametrize(
    ("benchmark", "video", "expected"),
    [
        ("mead", "M003/video/front/angry/level_1/004.mp4", ("M003-front-angry-level_1-004", "M003")),
        ("mead", "MEAD_W009_video_front_happy_level_3_017.mp4", ("W009-front-happy-level_3-017", "W009")),
        ("mead", "M003/video/left_30/angry/level_1/004.mp4", None),
        ("hdtf", "WDA/JoeCrowley12.mp4", ("JoeCrowley12", "JoeCrowley")),
        ("hdtf", "Radio12.mp4", ("Radio12", "Radio12")),
        ("celebvhq", "a/-0F1owya2oo_3.mp4", ("v-0F1owya2oo_3", "-0F1owya2oo")),
        ("portrait_world", "g1/id0004_s0002/video.mp4", ("g1-id0004_s0002", "id0004")),
        ("portrait_world", "id0004_s0002/other.mp4", None),
    ],
)
def test_paths_determine_names_and_identities(benchmark: str, video: str, expected: tuple[str, str] | None) -> None:
    shipped = load_config(BenchmarkConfig, preset_path("benchmarks", benchmark))
    assert ClipNaming.from_config(shipped).identify(video) == expected
    overrides = ["ranges=hdtf.jsonl"] if benchmark == "hdtf" else []
    old = load_config(BenchmarkConfig, None, [f"layout={benchmark}", *overrides])
    assert ClipNaming.from_config(old).identify(video) == expected, "layouts of earlier releases keep working"


@pytest.mark.parametrize(
    ("overrides", "code", "field", "value"),
    [
        (["fps=0"], ErrorCode.out_of_range, "fps", 0.0),
        (["width=8"], ErrorCode.out_of_range, "width", 8),
        (["max_seconds=1000"], ErrorCode.out_of_range, "max_seconds", 1000.0),
        (["min_seconds=11"], ErrorCode.out_of_range, "min_seconds", 11.0),
        (["max_clips=0"], ErrorCode.out_of_range, "max_clips", 0),
        (["max_extra_frames=-1"], ErrorCode.out_of_range, "max_extra_frames", -1),
        (["identity_pattern=null"], ErrorCode.missing_value, "identity_pattern", None),
        (["identity_pattern='('"], ErrorCode.invalid_type, "identity_pattern", "("),
        (["identity_pattern='a+'"], ErrorCode.invalid_type, "identity_pattern", "a+"),
        (["name_pattern='{person}'"], ErrorCode.unknown_key, "name_pattern", "person"),
        (["name_pattern='{stem.__class__}'"], ErrorCode.unknown_key, "name_pattern", "stem.__class__"),
        (["name_pattern='{'"], ErrorCode.invalid_type, "name_pattern", "{"),
        (["layout=hdtf"], ErrorCode.missing_value, "ranges", None),
    ],
)
def test_invalid_settings_are_rejected(
    tmp_path: Path, overrides: list[str], code: ErrorCode, field: str, value: object
) -> None:
    (tmp_path / "mine.yaml").write_text("identity_pattern: '(?P<identity>[a-z]+)'\nmin_seconds: 1\n")
    assert load_config(BenchmarkConfig, tmp_path / "mine.yaml").name_pattern == "{stem}"
    with raises_input_error(code, field, value):
        load_config(BenchmarkConfig, tmp_path / "mine.yaml", overrides)


def test_a_benchmark_is_one_yaml_file(world: Path, protocol: BenchmarkProtocol, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "identity_pattern: '(?P<identity>id\\d+)_s(?P<sentence>\\d+)/video'\n"
        "name_pattern: 'person-{identity}-{sentence}'\nwidth: 96\nheight: 96\nmin_seconds: 1\n"
    )
    frozen = freeze_videos("mine", world, load_config(BenchmarkConfig, path))
    assert {clip.video for clip in frozen.clips} == {clip.video for clip in protocol.clips}
    assert {clip.name for clip in frozen.clips} == {f"person-{clip.name.replace('_s', '-')}" for clip in protocol.clips}


@pytest.mark.parametrize(
    ("change", "code", "field", "detail"),
    [
        (lambda values: values["clips"][0].update(video="../../etc/passwd"), *MALFORMED, "'../../etc/passwd'"),
        (lambda values: values["clips"][0].update(video="/etc/passwd"), *MALFORMED, "'/etc/passwd'"),
        (lambda values: values["clips"][0].update(name="../x"), *MALFORMED, "clip '../x'"),
        (lambda values: values["clips"][0].update(frames=10**9), *MALFORMED, "1000000000 frames"),
        (lambda values: values["clips"].append(values["clips"][0]), *MALFORMED, "5 clips with 4 names"),
        (lambda values: values.update(width=10**6), *MALFORMED, "1000000x96 pixels"),
        (lambda values: values.pop("clips"), *MALFORMED, "'clips'"),
        (lambda values: values.update(fps=30.0), ErrorCode.conflict, "id", "edited by hand"),
        (lambda values: values.update(format=0), ErrorCode.conflict, "format", "format 0"),
    ],
)
def test_edited_manifests_are_rejected(
    protocol: BenchmarkProtocol,
    tmp_path: Path,
    change: Callable[[dict], object],
    code: ErrorCode,
    field: str,
    detail: str,
) -> None:
    protocol.save(tmp_path / "p.json")
    values = json.loads((tmp_path / "p.json").read_text())
    change(values)
    (tmp_path / "p.json").write_text(json.dumps(values))
    with raises_input_error(code, field) as caught:
        BenchmarkProtocol.load(tmp_path / "p.json")
    assert detail in str(caught.value)


def test_shipped_settings_are_valid() -> None:
    names = benchmark_names()
    assert names == ["celebvhq", "exprbench", "exprbench_world", "hdtf", "mead", "portrait_world"]
    for name in names:
        config = load_config(BenchmarkConfig, preset_path("benchmarks", name))
        assert config.fps == 25
        assert config.layout.value == (name if name.startswith("exprbench") else "videos")

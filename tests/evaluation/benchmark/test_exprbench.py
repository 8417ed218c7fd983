"""Benchmarks of reenactment: assignment of drivers, and scores of videos whose score is known."""

import hashlib
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.benchmark.auto_crop import crop_around_faces
from fantasytalking.evaluation.benchmark.clip_names import safe_clip_name
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, ReenactmentTask
from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth
from fantasytalking.evaluation.benchmark.driver_assignment import ReferenceEntry, assign_drivers
from fantasytalking.evaluation.benchmark.freeze_reenactment import crop_each_face
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol, verify_references
from fantasytalking.evaluation.cli import freeze_benchmark, parse_evaluation_args, run_evaluation
from fantasytalking.evaluation.registry import METRICS
from fantasytalking.evaluation.report.results import EvaluationResults
from fantasytalking.media import read_image, read_video, write_image, write_video
from fantasytalking.perception.face_track import FaceTrack
from fantasytalking.perception.mediapipe_graphs import NUM_FACE_LANDMARKS
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan
from tests.evaluation.conftest import SIZE
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import SCRIPTS

SIZES = [f"width={SIZE}", f"height={SIZE}"]
CROSS = ["task=cross", "max_seconds=1.2", "max_extra_frames=200", *SIZES]
TWO = ["task=cross", "people=2", "width=160", f"height={SIZE}", "min_seconds=0.5"]
MALFORMED = (ErrorCode.malformed_file, "manifest")
"""Code and field of errors about the content of a manifest."""


@pytest.fixture(scope="module")
def copy(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portrait world with true reenactments of one person and of two people."""
    folder = tmp_path_factory.mktemp("exprbench")
    shutil.copytree(world, folder / "one")
    plan = GroupCorpusPlan(range(1002, 1004), ("Hop to it.",), 2, (160, SIZE), expression=0.8, body=0.6, seed=1)
    assert list(islice(make_corpus(plan, folder / "two"), 2))[-1] == (1, 2), "one group is enough"
    for people in (1, 2):
        assert list(render_cross_ground_truth(folder, people, 1))[-1] == (1, 1)
    return folder


def predicted(
    protocol: BenchmarkProtocol, copy: Path, output: Path, source: Callable[[BenchmarkProtocol, int], Path]
) -> Path:
    output.mkdir()
    for number, clip in enumerate(protocol.clips):
        shutil.copy(source(protocol, number), output / f"{clip.name}.mp4")
    return output


def evaluated(copy: Path, predictions: Path, overrides: list[str], *more: str) -> EvaluationResults:
    output = predictions.with_name(f"{predictions.name}-results")
    command = ["--benchmark", "exprbench_world", "--references", copy, "--predictions", predictions, "--output", output]
    run_evaluation(parse_evaluation_args([*map(str, command), *more, *overrides], None))
    return EvaluationResults.load(output / "results.json")


def test_drivers_have_other_identities_in_the_order_of_hashes() -> None:
    portraits = [ReferenceEntry(f"{who}_{index}", (who,), Path()) for who in "abc" for index in range(2)]
    drivers = [ReferenceEntry(f"{who}_smile", (who,), Path()) for who in "abcd"]
    pairs = list(assign_drivers(portraits, drivers, 2))
    assert pairs == list(assign_drivers(portraits[::-1], drivers[::-1], 2))
    names = [portrait.name for portrait, _ in pairs]
    assert names == sorted(names, key=lambda name: hashlib.md5(name.encode()).hexdigest())
    assert len(names) == 6
    for portrait, (first, second) in pairs:
        assert len({portrait.identities[0], first.identities[0], second.identities[0]}) == 3
    turns = [driver.name for _, chosen in pairs for driver in chosen]
    assert all(2 <= turns.count(driver.name) <= 4 for driver in drivers)
    assert not list(assign_drivers(portraits[:2], drivers[:1], 1))


def test_self_reenactment_of_the_portrait_world(copy: Path, tmp_path: Path) -> None:
    protocol = freeze_benchmark("exprbench_world", copy, [*SIZES, "max_clips=1", "max_seconds=1"])
    assert freeze_benchmark("exprbench_world", copy, [*SIZES, "max_clips=1", "max_seconds=1"]).id == protocol.id
    (clip,) = protocol.clips
    assert [driver.file for driver in clip.drivers] == [clip.video]
    assert (clip.portrait, protocol.answered, clip.frames) == (None, True, 25)
    frames = read_video(copy / clip.video).frames[:25]
    (tmp_path / "same").mkdir()
    write_video(tmp_path / "same" / f"{clip.name}.mp4", np.repeat(frames[:1], 25, axis=0), fps=25)
    selected = ["--metrics", "psnr,aed,apd,gaze,expression_truth"]
    results = evaluated(copy, tmp_path / "same", [*SIZES, "max_clips=1", "max_seconds=1"], *selected)
    scores = {row.value: row for row in results.rows}
    assert results.protocol == protocol.id
    assert scores["aed"].score.score > 0.005 and scores["apd"].score.score > 0.5
    assert scores["aed"].floor is not None and scores["aed"].floor.score < scores["aed"].score.score
    mouth = scores["expression_mouth"]
    assert mouth.truth is not None and mouth.truth.score > 0.8
    with raises_input_error(ErrorCode.unsupported, "--metrics", "theval"):
        evaluated(copy, tmp_path / "same", [*SIZES, "max_clips=1", "max_seconds=1"], "--metrics", "theval")


def test_true_reenactments_are_the_ground_truth(copy: Path, tmp_path: Path) -> None:
    protocol = freeze_benchmark("exprbench_world", copy, CROSS)
    (clip,) = protocol.clips
    assert protocol.answered
    portrait, driver = clip.name.split("-by-")
    assert portrait[:6] == clip.identity != driver[:6]
    assert clip.portrait is not None
    assert clip.portrait.file == f"crossed/{clip.name}/portrait.png"
    assert [source.file for source in clip.drivers] == [f"one/{driver}/video.mp4"]
    assert clip.frames == 30 < len(read_video(copy / clip.video).frames)
    true = predicted(protocol, copy, tmp_path / "true", lambda p, n: copy / p.clips[n].video)
    selected = ["--metrics", "psnr,lmd,aed,apd,expression_truth,first_frame"]
    rows = {row.value: row for row in evaluated(copy, true, CROSS, *selected).rows}
    assert rows["psnr"].score.score == 100 and rows["lmd"].score.score == 0
    for value in ("aed_centred", "apd_centred", "expression_mouth"):
        truth = rows[value].truth
        assert truth is not None and rows[value].score.score == truth.score
    driving = predicted(protocol, copy, tmp_path / "driver", lambda p, n: copy / p.clips[n].drivers[0].file)
    others = {row.value: row.score.score for row in evaluated(copy, driving, CROSS, *selected).rows}
    assert others["aed"] == others["apd"] == 0 < rows["aed"].score.score
    assert others["psnr"] < 25 and others["first_frame_shift"] > 3 * rows["first_frame_shift"].score.score
    assert min(others["expression_mouth"], rows["expression_mouth"].score.score) > 0.8


def test_two_people_are_compared_with_their_own_drivers(copy: Path, tmp_path: Path) -> None:
    protocol = freeze_benchmark("exprbench_world", copy, TWO)
    (clip,) = protocol.clips
    assert len(clip.drivers) == 2 and clip.identity in ("id1002+id1003", "id1003+id1002")
    true = predicted(protocol, copy, tmp_path / "true", lambda p, n: copy / p.clips[n].video)
    rows = {row.value: row.score.score for row in evaluated(copy, true, TWO, "--metrics", "leakage,apd,lmd").rows}
    assert rows["leakage_own"] > rows["leakage_other"] + 0.25
    assert 0 < rows["apd_centred"] < 2
    assert all(driver.crop is None for driver in clip.drivers), "not cropped to the aspect ratio of the image"
    assert rows["leakage_own"] == pytest.approx((rows["leakage_1_1"] + rows["leakage_2_2"]) / 2)
    swapped = replace(protocol, clips=(replace(clip, drivers=clip.drivers[::-1]),))
    straight, crossed = (
        [
            person.ground_truth["yaw"]
            for person in one.prediction_clip(one.clips[0], true / f"{clip.name}.mp4", copy).people
        ]
        for one in (protocol, swapped)
    )
    assert np.array_equal(straight[0], crossed[1]) and np.array_equal(straight[1], crossed[0])
    assert not np.array_equal(*straight)


def test_several_people_drive_themselves_from_crops(copy: Path) -> None:
    overrides = ["people=2", "width=160", f"height={SIZE}", "min_seconds=0.5", "max_clips=1", "max_seconds=1"]
    (clip,) = freeze_benchmark("exprbench_world", copy, overrides).clips
    assert [(driver.face, driver.faces, driver.file) for driver in clip.drivers] == [
        (0, 2, clip.video),
        (1, 2, clip.video),
    ]
    people = json.loads((copy / clip.video).with_name("truth.json").read_text())["people"]
    for driver, person in zip(clip.drivers, people, strict=True):
        assert driver.crop is not None
        left, top, width, height = (fraction * SIZE for fraction in driver.crop)
        box = np.array([frame["box"] for frame in person["frames"][:25]])
        x, y = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
        assert (x > left).all() and (x < left + width).all()
        assert (y > top).all() and (y < top + height).all()
        assert width < 0.75 * 160


def test_crops_of_close_neighbors_end_between_them() -> None:
    def track(left: float, right: float) -> FaceTrack:
        points = np.random.default_rng(0).uniform([left, 20, 0], [right, 60, 1], (3, NUM_FACE_LANDMARKS, 3))
        points[:, :2, 0] = left, right
        seen = np.ones(3, bool)
        return FaceTrack(np.arange(3.0), points.astype(np.float32), seen, ~seen, seen * 1.0, 80, 200)

    near, far = crop_each_face([track(20, 50), track(54, 84)]), crop_each_face([track(20, 50), track(140, 170)])
    assert near[0][0] + near[0][2] == pytest.approx(52 / 80, abs=0.01) == near[1][0]
    assert far[0][2] == far[0][3] > near[0][2], "square if there is room"
    assert far[0][0] + far[0][2] < 140 / 80


@pytest.fixture(scope="module")
def real(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layout of ExprBench; the portraits are wide."""
    folder = tmp_path_factory.mktemp("real")
    for kind in ("portraits", "drivers"):
        (folder / kind).mkdir()
    for who, name in (("anna", "id1000_s0000"), ("ben+", "id1001_s0001")):
        portrait = read_image(world / name / "portrait.png")
        wide = np.concatenate([np.full((SIZE, 2 * SIZE, 3), 90, np.uint8), portrait], axis=1)
        write_image(folder / "portraits" / f"{who}_1.png", wide)
        shutil.copy(world / name / "video.mp4", folder / "drivers" / f"{who}_laughs.mp4")
    return folder


def test_cross_reenactment_of_real_people_has_no_ground_truth(real: Path, tmp_path: Path) -> None:
    overrides = [*CROSS, "min_seconds=1"]
    protocol = freeze_benchmark("exprbench", real, overrides)
    assert not protocol.answered
    assert {clip.name for clip in protocol.clips} == {"anna_1-by-ben-_laughs", "ben-_1-by-anna_laughs"}
    for clip in protocol.clips:
        assert clip.portrait is not None and clip.portrait.crop == (2.0, 0.0, 1.0, 1.0)
        still = protocol.portrait_clip(clip, real)
        assert still is not None and still.frames.shape == (1, SIZE, SIZE, 3) and still.track.known.all()
    path = tmp_path / "manifest.json"
    protocol.save(path)
    assert BenchmarkProtocol.load(path) == protocol
    videos = predicted(protocol, real, tmp_path / "videos", lambda p, n: real / p.clips[n].drivers[0].file)
    command = ["--benchmark", "exprbench", "--references", real, "--predictions", videos, "--manifest", path]
    words = [*map(str, command), "--output", str(tmp_path / "output")]
    with raises_input_error(ErrorCode.unsupported, "--metrics", "psnr"):
        run_evaluation(parse_evaluation_args([*words, "--metrics", "psnr,aed"], None))
    with raises_input_error(ErrorCode.missing_weights, "--weights", METRICS["fid"].required_weights[0].file):
        run_evaluation(parse_evaluation_args([*words, "--metrics", "aed", "--required-metrics", "fid"], None))
    run_evaluation(parse_evaluation_args([*words, "--metrics", "aed,apd,first_frame"], None))
    rows = {row.value: row for row in EvaluationResults.load(tmp_path / "output" / "results.json").rows}
    assert rows["aed"].score.score == rows["apd"].score.score == 0
    assert rows["first_frame_shift"].score.score > 1


def test_self_reenactment_of_real_people(real: Path) -> None:
    protocol = freeze_benchmark("exprbench", real, [*SIZES, "min_seconds=1"])
    assert protocol.answered and len(protocol.clips) == 2
    for clip in protocol.clips:
        assert clip.video == clip.drivers[0].file and clip.portrait is None
    with raises_input_error(ErrorCode.missing_file, "--references", str(real / "drivers" / "2")):
        freeze_benchmark("exprbench", real, [*SIZES, "people=2"])
    with raises_input_error(ErrorCode.out_of_range, "min_seconds", 5.0):
        freeze_benchmark("exprbench", real, [*SIZES, "min_seconds=5"])


@pytest.mark.parametrize(
    ("change", "code", "field", "detail"),
    [
        (lambda clip: clip["drivers"][0].update(file="../secret.mp4"), *MALFORMED, "'../secret.mp4'"),
        (lambda clip: clip["portrait"].update(file="/etc/passwd"), *MALFORMED, "'/etc/passwd'"),
        (lambda clip: clip["drivers"][0].update(face=3), *MALFORMED, "face 3 of 1"),
        (lambda clip: clip["drivers"].extend(clip["drivers"] * 20), *MALFORMED, "with 21 drivers"),
        (lambda clip: clip["portrait"].update(crop=[0, 0, -1, 1]), *MALFORMED, "crop"),
        (lambda clip: clip["drivers"][0].pop("sha256"), *MALFORMED, "sha256"),
        (lambda clip: clip.update(drivers=[]), ErrorCode.conflict, "id", "edited by hand"),
    ],
)
def test_edited_sources_are_rejected(
    copy: Path, tmp_path: Path, change: Callable[[dict], object], code: ErrorCode, field: str, detail: str
) -> None:
    freeze_benchmark("exprbench_world", copy, [*CROSS, "max_clips=1"]).save(tmp_path / "p.json")
    values = json.loads((tmp_path / "p.json").read_text())
    change(values["clips"][0])
    (tmp_path / "p.json").write_text(json.dumps(values))
    with raises_input_error(code, field) as caught:
        BenchmarkProtocol.load(tmp_path / "p.json")
    assert detail in str(caught.value)


def test_another_driver_than_the_frozen_one_is_rejected(copy: Path) -> None:
    (clip,) = freeze_benchmark("exprbench_world", copy, [*CROSS, "max_clips=1"]).clips
    verify_references(clip, copy)
    other = replace(clip, drivers=(replace(clip.drivers[0], sha256="0" * 64),))
    with raises_input_error(ErrorCode.conflict, "sha256", clip.drivers[0].file):
        verify_references(other, copy)


@pytest.mark.parametrize(
    ("name", "override", "value"),
    [
        ("hdtf", "people=2", 2),
        ("hdtf", "task=cross", ReenactmentTask.cross),
        ("exprbench", "identities=[a]", ["a"]),
        ("exprbench", "training_manifests=[a]", ["a"]),
        ("exprbench", "ranges=a.jsonl", "a.jsonl"),
    ],
)
def test_settings_of_reenactment_are_separate(name: str, override: str, value: object) -> None:
    with raises_input_error(ErrorCode.conflict, override.split("=")[0], value):
        load_config(BenchmarkConfig, preset_path("benchmarks", name), [override])


def test_crops_contain_the_face_and_names_are_safe(world: Path) -> None:
    portrait = read_image(world / "id1000_s0000" / "portrait.png")
    assert crop_around_faces(portrait, 1.0) is None
    gray = np.full((SIZE, 2 * SIZE, 3), 90, np.uint8)
    assert crop_around_faces(gray, 1.0) == (0.5, 0.0, 1.0, 1.0)
    left, _, width, _ = crop_around_faces(np.concatenate([portrait, gray], axis=1), 1.0) or (9, 9, 9, 9)
    assert left < 0.1 and width == 1.0
    assert safe_clip_name("été+a_1") == "t-a_1"
    assert len(safe_clip_name("a" * 300)) <= 100 and safe_clip_name("a" * 300) != safe_clip_name("a" * 301)


def test_the_script_resumes_and_reports_missing_clips(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = SCRIPTS / "make_crossed.py"
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("video.mp4")}
    monkeypatch.setattr(sys, "argv", ["make_crossed.py", "--references", str(copy), "--max-clips", "1"])
    runpy.run_path(str(script), run_name="__main__")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("video.mp4")} == stamps
    monkeypatch.setattr(sys, "argv", ["make_crossed.py", "--references", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert f"'{tmp_path}'" in capsys.readouterr().err.strip().splitlines()[-1]

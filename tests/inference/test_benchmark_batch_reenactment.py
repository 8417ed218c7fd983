"""A benchmark of reenactment becomes videos: each is given its portrait and drivers as the protocol crops them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe")

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.evaluation.benchmark.cross_ground_truth import render_cross_ground_truth
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.cli import freeze_benchmark
from fantasytalking.inference.benchmark_batch import BenchmarkJob, generate_benchmark
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.media import read_image, read_video
from tests.helpers.errors import raises_input_error
from tests.inference.test_benchmark_batch import Rank, going_home

SIZES = ("width=96", "height=96", "max_seconds=0.4", "min_seconds=0.4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(going_home(tmp_path_factory), folder, ignore=shutil.ignore_patterns("id1002*"), dirs_exist_ok=True)
    for _ in render_cross_ground_truth(folder, 1):
        pass
    return folder


@pytest.fixture
def config(saved: Path, expressive: Path) -> InferConfig:
    own = [
        f"base={saved}",
        "adapter=null",
        f"expression_adapter={expressive}",
        "sizes=[32x32]",
        "num_inference_steps=1",
    ]
    return load_config(InferConfig, preset_path("nano", "infer"), [*own, "window_frames=17", "overlap_frames=4"])


def test_everyone_is_given_the_others_driver(world: Path, config: InferConfig, tmp_path: Path) -> None:
    protocol = freeze_benchmark("exprbench_world", world, ["task=cross", *SIZES])
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", config)
    assert generate_benchmark(batch, Rank(0, 1)) == 2
    assert len(match_predictions(protocol, world, batch.output)) == 2
    for number, clip in enumerate(protocol.clips):
        job, record = batch.clip_job(number), GenerationRecord.load(batch.output / f"{clip.name}.json")
        assert job.audio_paths == () and len(job.driving_videos) == 1
        assert record.driving_videos == job.driving_videos
        still = read_image(world / f"crossed/{clip.name}/portrait.png")
        assert np.array_equal(read_image(job.image), still)
        given, real = read_video(job.driving_videos[0]), read_video(world / clip.drivers[0].file)
        assert (len(given.frames), given.fps) == (clip.frames, 25)
        own, next_one = (np.abs(given.frames.astype(int) - real.frames[at : at + 10]).mean() for at in (0, 1))
        assert own < 2 and own < next_one, "compressed anew, but not moved in time"
    before = {path: path.stat().st_mtime_ns for path in batch.output.rglob("*.mp4")}
    generate_benchmark(batch, Rank(0, 1))
    assert {path: path.stat().st_mtime_ns for path in batch.output.rglob("*.mp4")} == before
    with raises_input_error(ErrorCode.output_exists, "--output"):
        generate_benchmark(replace(batch, config=replace(config, expression_scale=0.5)), Rank(0, 1))


def test_someone_who_drives_himself_starts_as_his_video_does(world: Path, config: InferConfig, tmp_path: Path) -> None:
    protocol = freeze_benchmark("exprbench_world", world, [*SIZES, "max_clips=1"])
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", config)
    assert generate_benchmark(batch, Rank(0, 1)) == 1
    (pair,) = match_predictions(protocol, world, batch.output)
    assert np.array_equal(read_image(batch.clip_job(0).image), read_video(world / pair.clip.video).frames[0])

"""A frozen benchmark becomes videos that its protocol takes, shared out, resumed, and replayable one by one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
from fantasytalking.evaluation.benchmark.freeze import freeze_videos
from fantasytalking.evaluation.benchmark.prediction_pairing import match_predictions
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.inference.benchmark_batch import BenchmarkJob, generate_benchmark
from fantasytalking.inference.cli import run_job
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.job import job_from_record
from fantasytalking.media import read_image, write_image
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.people.identity import make_identity
from tests.helpers.errors import raises_input_error
from tests.helpers.shared_folder import shared_folder

pytest.importorskip("mediapipe")
SENTENCES = ("Go home.",)


class Rank(NamedTuple):
    process_index: int
    num_processes: int


def going_home(factory: pytest.TempPathFactory) -> Path:
    """A corpus of a clip of each of three people."""
    plan = CorpusPlan(range(1000, 1003), SENTENCES, size=96)
    return shared_folder(factory, "going_home", lambda folder: list(make_corpus(plan, folder)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return going_home(tmp_path_factory)


@pytest.fixture(scope="module")
def protocol(world: Path) -> BenchmarkProtocol:
    settings = ["width=96", "height=96", "min_seconds=0.3"]
    return freeze_videos("portrait_world", world, load_config(BenchmarkConfig, _settings(), settings))


def _settings() -> Path:
    return preset_path("benchmarks", "portrait_world")


def _config(base: Path, adapters: Path, *more: str) -> InferConfig:
    model = [f"base={base}", f"adapter={adapters / 'all'}", "max_text_tokens=12"]
    sizes = ["sizes=[32x32]", "num_inference_steps=2", "window_frames=17", "overlap_frames=4"]
    return load_config(InferConfig, preset_path("nano", "infer"), [*model, *sizes, *more])


def test_two_ranks_make_what_the_protocol_takes(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", _config(base, adapters))
    assert [generate_benchmark(batch, Rank(rank, 2)) for rank in (0, 1)] == [2, 1]
    pairs = match_predictions(protocol, world, batch.output)
    assert len(pairs) == 3 and len({pair.prediction_sha256 for pair in pairs}) == 3
    times = {path: path.stat().st_mtime_ns for path in batch.output.glob("*.mp4")}
    first = batch.output / f"{protocol.clips[0].name}.mp4"
    content = first.read_bytes()
    first.with_suffix(".json").unlink()
    generate_benchmark(batch, Rank(0, 1))
    assert first.read_bytes() == content, "made again alike"
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != first), "and nothing else"
    record = json.loads(first.with_suffix(".json").read_text())
    assert record["config"]["seed"] == 0 and record["config"]["fps"] == protocol.fps
    assert "the same bits as recorded" in run_job(
        job_from_record(first.with_suffix(".json"), tmp_path / "again.mp4", False)
    )


def test_a_clip_that_cannot_be_used_does_not_stop_the_others(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", _config(base, adapters, "face_index=2"))
    with raises_input_error(ErrorCode.unreadable_media, "clips", 3):
        generate_benchmark(batch, Rank(0, 1))
    assert not list(batch.output.glob("*.mp4"))


def test_a_folder_never_mixes_models_or_settings(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(adapters / "all", adapter)
    config = _config(base, adapters, f"adapter={adapter}", "num_inference_steps=1")
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", config)
    generate_benchmark(batch, Rank(0, 1))
    (batch.output / f"{protocol.clips[0].name}.mp4").unlink()
    before = _contents(batch.output)
    refused = f"{batch.output / protocol.clips[1].name}.mp4"
    for other in (
        replace(config, num_inference_steps=3),
        replace(config, seed=1),
        replace(config, adapter=str(adapters / "audio")),
    ):
        with raises_input_error(ErrorCode.output_exists, "--output", refused):
            generate_benchmark(replace(batch, config=other), Rank(0, 1))
        assert _contents(batch.output) == before, "the missing clip is not made either"
    tensors = load_file(adapter / "adapter.safetensors")
    next(iter(tensors.values()))[0] += 1
    save_file(tensors, adapter / "adapter.safetensors")
    with raises_input_error(ErrorCode.output_exists, "--output", refused):
        generate_benchmark(batch, Rank(0, 1))
    assert _contents(batch.output) == before, "weights of the same name"


def test_a_reference_that_has_changed_is_not_used(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    references = tmp_path / "references"
    shutil.copytree(world, references)
    with (references / protocol.clips[1].video).open("ab") as video:
        video.write(b"more")
    batch = BenchmarkJob(protocol, references, tmp_path / "videos", _config(base, adapters, "num_inference_steps=1"))
    with raises_input_error(ErrorCode.unreadable_media, "clips", 1):
        generate_benchmark(batch, Rank(0, 1))
    made = {path.stem for path in batch.output.glob("*.mp4")}
    assert made == {protocol.clips[0].name, protocol.clips[2].name}


def test_given_portraits_replace_the_first_frames_and_keep_the_resize_mode(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for clip, identity in zip(protocol.clips, (1010, 1011, 1012), strict=True):
        write_image(portraits / f"{clip.name}.png", PortraitRenderer(make_identity(identity), 128).portrait())
    config = _config(base, adapters, "num_inference_steps=1")
    batch = BenchmarkJob(protocol, world, tmp_path / "videos", config, portraits)
    assert generate_benchmark(batch, Rank(0, 1)) == 3
    job = batch.clip_job(0)
    assert job.config.resize_mode is ResizeMode.fit
    assert np.array_equal(read_image(job.image), read_image(portraits / f"{protocol.clips[0].name}.png"))
    generate_benchmark(batch, Rank(0, 1))  # nothing to do
    shutil.copy(portraits / f"{protocol.clips[1].name}.png", portraits / f"{protocol.clips[0].name}.png")
    with raises_input_error(ErrorCode.output_exists, "--output", str(job.output)):
        generate_benchmark(batch, Rank(0, 1))
    (portraits / f"{protocol.clips[0].name}.png").unlink()
    job.output.unlink()
    with raises_input_error(ErrorCode.unreadable_media, "clips", 1):
        generate_benchmark(batch, Rank(0, 1))


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_references_that_are_not_there_are_named(
    base: Path, adapters: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    batch = BenchmarkJob(protocol, tmp_path, tmp_path / "videos", _config(base, adapters))
    with pytest.raises(InputError, match="3 clips have no reference in"):
        generate_benchmark(batch, Rank(0, 1))


def test_benchmarks_keep_the_crop_of_their_protocol(
    base: Path, adapters: Path, world: Path, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    for mode, kept in (("fit", "crop"), ("crop", "crop"), ("letterbox", "letterbox")):
        job = BenchmarkJob(protocol, world, tmp_path / mode, _config(base, adapters, f"resize_mode={mode}")).clip_job(0)
        assert job.config.resize_mode.value == kept

"""A condition added from outside the package, as docs/extending.md describes: the files of gesture/ and nothing else.

The clips get brighter or darker with their first gesture. A model that has learned the gesture does the same.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import PartialState

from fantasytalking import condition_registry
from fantasytalking.checkpoints.adapter import read_adapter
from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.conditions import RegisteredValue
from fantasytalking.data.collate import PortraitCollator
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.features import ClipFeatures, save_features
from fantasytalking.data.manifest import ClipRecord, ClipRejected, RejectionReason, write_records
from fantasytalking.data.prepare.clip import read_conditions
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.plan import SceneClip, VideoFile
from fantasytalking.data.prepare.preparation import prepare_corpus
from fantasytalking.data.prepare.staleness import companions_mark
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.inference.arguments import parse_job
from fantasytalking.inference.cli import run_job
from fantasytalking.inference.job import GenerationJob, job_from_record
from fantasytalking.inference.model_sources import ResolvedModel, load_pipeline
from fantasytalking.media import read_audio, read_video, write_image
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT

GESTURE = Path(__file__).parent / "gesture"
NANO = ROOT / "checkpoints" / "nano"
DEMO = ROOT / "data" / "demo" / "talking.mp4"
FRAMES, SIZE = 9, 64


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package of the gesture as pip installs it: its module and the entry point that names it."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(GESTURE / "gesture.py", site)
    described = site / "gesture-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: gesture\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[fantasytalking.conditions]\ngesture = gesture\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        condition_registry._import_entry_points.cache_clear()
        assert "gesture" in condition_registry.registered_conditions()
        yield


@pytest.mark.parametrize("name", ["gesture.py", "pyproject.toml", "data.yaml", "stage.yaml"])
def test_the_documentation_shows_the_files(name: str):
    files = [path for path in GESTURE.iterdir() if path.is_file()]
    assert len(files) <= 5 and sum(len(file.read_text().splitlines()) for file in files) <= 150
    assert (GESTURE / name).read_text() in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def demonstration_frames() -> np.ndarray:
    """The middle of the demonstration video, (T, 64, 64, 3)."""
    frames = read_video(DEMO, fps=25, duration=1.5).frames
    start = (frames.shape[2] - SIZE) // 2
    return frames[:, start : start + SIZE, start : start + SIZE]


def changed_brightness(frames: np.ndarray, gesture: float) -> np.ndarray:
    """Frames that get brighter (1) or darker (-1) within four frames; the first is unchanged."""
    ramp = np.minimum(np.arange(len(frames)) / 4, 1)[:, None, None, None]
    return np.clip(frames + 50 * gesture * ramp, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of the demonstration video with gestures to both sides, encoded by nano's encoders."""
    folder = tmp_path_factory.mktemp("corpus")
    video = demonstration_frames()
    vae = VideoAutoencoder.from_pretrained(NANO)
    text = TextEncoder.from_pretrained(NANO).encode("A person is talking.")
    image, audio = ImageEncoder.from_pretrained(NANO), load_audio_encoder(NANO, subfolder="audio_encoder")
    speech = audio.encode(read_audio(DEMO, sample_rate=16000, duration=FRAMES / 25))
    records = []
    for number in range(4):
        gesture = 1.0 if number % 2 else -1.0
        clip = changed_brightness(video[3 * number : 3 * number + FRAMES], gesture)
        pixels = torch.from_numpy(clip).permute(0, 3, 1, 2)
        masks = torch.ones(1 + (FRAMES - 1) // 4, SIZE // 8, SIZE // 8)
        features = ClipFeatures(
            latents=vae.encode(pixels.permute(1, 0, 2, 3)[None])[0],
            first_frame_latents=vae.encode_first_frame(pixels[:1], FRAMES)[0],
            text=text,
            image=image.encode(torch.from_numpy(clip[0])),
            audio=speech,
            frame_times=torch.arange(FRAMES, dtype=torch.float64) / 25,
            face=torch.nn.functional.normalize(torch.ones(1, 512)),
            lip_mask_causal=masks,
            lip_mask_trilinear=masks,
            conditions={"gesture": torch.tensor([gesture, 0.0])},
        )
        name = f"clip{number}"
        save_features(features, folder / f"{name}.safetensors", "test")
        measures = {"expression": 0.5, "body": 0.5, "expression_measure": 1.0, "body_measure": 1.0, "face_size": 30.0}
        shape = {"fps": 25.0, "frames": FRAMES, "width": SIZE, "height": SIZE}
        records.append(
            ClipRecord(
                clip=name,
                video=f"{name}.mp4",
                start=0.0,
                duration=FRAMES / 25,
                features=f"{name}.safetensors",
                **shape,
                **measures,
            )
        )
    write_records(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


class Trained(NamedTuple):
    config: TrainConfig
    adapter: Path


@pytest.fixture(scope="module")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output = tmp_path_factory.mktemp("run") / "gesture"
    places = [f"base={NANO}", f"stage.init_from={NANO}", f"output={output}", f"data.manifests=[{manifest}]"]
    config = load_config(TrainConfig, GESTURE / "stage.yaml", places)
    return Trained(config, Trainer(config).train())


@torch.no_grad()
def corpus_loss(config: TrainConfig, init_from: Path, sign: float = 1.0) -> float:
    """Loss over all clips with the same noise, without dropout, for their gestures times `sign`."""
    config = replace(config, stage=replace(config.stage, init_from=str(init_from)))
    model, _ = build_model(config, torch.float32)
    dataset = PortraitDataset(*config.data.manifests)
    batch = PortraitCollator(config.collate_config())([dataset[index] for index in range(len(dataset))])
    assert batch.conditions.registered is not None
    value, scale = batch.conditions.registered["gesture"]
    turned = batch.conditions._replace(registered={"gesture": RegisteredValue(sign * value, scale)})
    draws = step_randomness(5, 5, range(len(dataset)), batch.latents.shape[1:], ["gesture"])
    draws = draws._replace(dropout_uniform=dict.fromkeys(draws.dropout_uniform, torch.ones(len(dataset))))
    objective = build_objective(config.stage)
    return (
        objective.compute_loss(model.eval(), batch._replace(conditions=turned), draws, torch.float32).loss.mean().item()
    )


def test_the_gesture_alone_trains_and_the_loss_falls(trained: Trained):
    described, tensors = read_adapter(trained.adapter)
    assert described.modules == ["gesture"] and described.on_saved
    assert described.conditions == {"gesture": {"dim": 2, "width": 32}}
    assert {adapter_module_of(name) for name in tensors} == {"gesture"}
    before, after = corpus_loss(trained.config, NANO), corpus_loss(trained.config, trained.adapter)
    assert after < 0.96 * before
    assert corpus_loss(trained.config, trained.adapter, sign=-1.0) > 1.04 * before, "of the opposite gesture, it rises"


class Generator:
    """Runs `infer` with one loaded pipeline."""

    def __init__(self, adapter: Path, folder: Path) -> None:
        self.adapter, self.folder = adapter, folder
        self.pipeline: FantasyTalkingPipeline | None = None
        self.count = 0

    def job(self, *arguments: str) -> GenerationJob:
        speech = ROOT / "data" / "demo" / "speech.wav"
        return parse_job(
            [
                *("--image", str(self.folder / "portrait.png"), "--audio", str(speech), "--size", str(SIZE)),
                *("--max-seconds", "0.36", "--num-inference-steps", "4", "--audio-guidance-scale", "1"),
                *("--output", str(self.folder / "a.mp4"), "resize_mode=letterbox"),
                *(f"base={NANO}", f"adapter={self.adapter}", *arguments),
            ],
            "test",
        )

    def run(self, job: GenerationJob) -> np.ndarray:
        """Generates a video and returns its frames."""
        run_job(job, self.load)
        return read_video(job.output).frames

    def load(self, job: GenerationJob, model: ResolvedModel) -> FantasyTalkingPipeline:
        self.pipeline = self.pipeline or load_pipeline(job.config, model)
        return self.pipeline

    def brightening(self, *arguments: str) -> float:
        """Levels by which the last frames are brighter than the first."""
        frames = self.run(self.job(*arguments)).astype(float)
        return float(frames[-4:].mean() - frames[0].mean())


@pytest.fixture(scope="module")
def generator(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("videos")
    write_image(folder / "portrait.png", demonstration_frames()[0])
    np.save(folder / "bright.npy", [1.0, 0.0])
    np.save(folder / "dark.npy", [-1.0, 0.0])
    return Generator(trained.adapter, folder)


def test_a_generated_video_follows_its_gesture(generator: Generator):
    folder = generator.folder
    bright, dark = (f"gesture={folder / name}.npy" for name in ("bright", "dark"))
    without = generator.brightening()
    darker, brighter = (generator.brightening("--condition", gesture) for gesture in (dark, bright))
    assert darker < without < brighter
    assert brighter - darker > 5, "levels of 255"
    strongly = ("--condition-guidance-scale", "gesture=3")
    guided = generator.brightening("--condition", bright, *strongly) - generator.brightening(
        "--condition", dark, *strongly
    )
    assert guided > 2 * (brighter - darker)
    assert generator.brightening("--condition", bright, "condition_scales.gesture=0") == without
    record = json.loads((folder / "a.json").read_text())
    assert record["conditions"] == {"gesture": str(folder / "bright.npy")} and "condition gesture" in record["hashes"]
    again = job_from_record(folder / "a.json", folder / "again.mp4", False)
    assert (generator.run(again) == read_video(folder / "a.mp4").frames).all()


def test_values_and_names_that_do_not_fit_are_refused(generator: Generator, tmp_path: Path):
    dark = generator.folder / "dark.npy"
    with raises_input_error(ErrorCode.invalid_choice, "conditions", "gait"):
        generator.run(generator.job("--condition", f"gait={dark}"))
    with raises_input_error(ErrorCode.missing_value, "guidance.conditions", "gesture"):
        generator.run(generator.job("--condition-guidance-scale", "gesture=3"))
    with raises_input_error(ErrorCode.not_trained, "gesture"):
        generator.run(generator.job("--condition", f"gesture={dark}", "adapter=null"))
    with raises_input_error(ErrorCode.missing_file):
        generator.job("--condition", "gesture=/nowhere.npy")
    for wrong in ("gesture", "=a.npy"):
        with raises_input_error(ErrorCode.invalid_type, "--condition", wrong):
            generator.job("--condition", wrong)
    np.save(tmp_path / "wide.npy", [1.0, 0.0, 0.0])
    with raises_input_error(ErrorCode.shape_mismatch, "gesture", (3,)):
        generator.run(generator.job("--condition", f"gesture={tmp_path / 'wide.npy'}"))


def test_preparation_reads_the_value_beside_the_video(tmp_path: Path):
    clip = SceneClip(VideoFile(tmp_path / "a.mp4", "a.mp4", 1), 0.0, None)
    config = load_config(PreparationConfig, GESTURE / "data.yaml")
    with pytest.raises(ClipRejected) as rejected:
        read_conditions(clip, config.conditions)
    assert rejected.value.reason is RejectionReason.UNREADABLE and "a.gesture.npy" in rejected.value.detail
    np.save(tmp_path / "a.gesture.npy", [0.25, -0.5])
    assert read_conditions(clip, config.conditions)["gesture"].tolist() == [0.25, -0.5]
    before = companions_mark(clip, config.conditions)
    np.save(tmp_path / "a.gesture.npy", [0.5, -0.5])
    assert before != companions_mark(clip, config.conditions) != companions_mark(clip, [])
    for damaged in ([[0.5], [0.5]], [np.inf, 0.0]):
        np.save(tmp_path / "a.gesture.npy", damaged)
        with pytest.raises(ClipRejected):
            read_conditions(clip, config.conditions)


@pytest.mark.slow
def test_a_folder_of_videos_and_gestures_becomes_a_corpus(tmp_path: Path):
    """The whole preparation; the clips of a video share its gesture."""
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(ROOT / "data" / "demo" / "talking.mp4", videos / "a.mp4")
    np.save(videos / "a.gesture.npy", [0.25, -0.5])
    config = load_config(PreparationConfig, GESTURE / "data.yaml", [f"base={NANO}", "contact_sheet_clips=0"])
    prepare_corpus(videos, tmp_path / "corpus", config, PartialState(), torch.device("cpu"))
    dataset = PortraitDataset(tmp_path / "corpus" / "manifest.jsonl")
    assert len(dataset) > 0
    assert all(
        sample.features.conditions["gesture"].tolist() == [0.25, -0.5]
        for sample in map(dataset.__getitem__, range(len(dataset)))
    )

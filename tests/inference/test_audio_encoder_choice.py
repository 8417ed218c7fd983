"""A model whose audio encoder is Whisper's, from videos to a video; and what refuses another encoder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.audio_tokens import AudioEncoderSpec, TokenTiming
from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.common.config import load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.manifest import read_manifest, write_records
from fantasytalking.encoders.audio_loading import audio_encoder_from_components
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.media import probe, write_video
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait
from fantasytalking.pipeline.condition_encoder import encode_audio
from fantasytalking.pipeline.generation_plan import GenerationControls
from fantasytalking.pipeline.streaming.streaming_audio import StreamingAudioEncoder
from fantasytalking.pipeline.streaming.window_history import first_causal_window
from fantasytalking.pipeline.timeline import Timeline
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from tests.data.preparation_runs import run_in_process, small_config
from tests.data.sample_videos import FPS, talking_clip
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT
from tests.helpers.tiny_audio_encoders import save_audio_encoder
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import files, run_infer, write_inputs
from tests.training.conftest import fresh_accelerate
from tests.training.tiny_corpus import config_overrides

pytest.importorskip("mediapipe")

__all__ = ["fresh_accelerate"]
DIM = 16


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whisper/, hubert/ of the same width, and retrained/: other weights of whisper."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("whisper", "hubert"):
        save_audio_encoder(folder / name, name, DIM)
    save_audio_encoder(folder / "retrained", "whisper", DIM, seed=1)
    return folder


@pytest.fixture(scope="module")
def model_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's sizes for tokens of that width."""
    path = tmp_path_factory.mktemp("model") / "model.yaml"
    text = (ROOT / "configs" / "nano" / "model.yaml").read_text()
    path.write_text(text.replace("audio_dim: 128", f"audio_dim: {DIM}"))
    return path


@pytest.fixture(scope="module")
def corpus(base: Path, encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of one clip, twice, so that there is a batch."""
    folder = tmp_path_factory.mktemp("corpus")
    frames, samples, rate = talking_clip(0)
    write_video(folder / "videos" / "talk.mp4", frames[:20], fps=FPS, audio=samples, sample_rate=rate)
    run_in_process(folder / "videos", folder / "out", small_config(base, audio_encoder=str(encoders / "whisper")))
    records = read_manifest(folder / "out" / "manifest.jsonl")
    write_records(folder / "out" / "manifest.jsonl", [*records, *records])
    return folder / "out" / "manifest.jsonl"


@pytest.fixture(scope="module")
def trained(base: Path, corpus: Path, model_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of two steps of stage 2."""
    return Trainer(train_config(tmp_path_factory.mktemp("run"), base, corpus, model_yaml)).train()


def train_config(folder: Path, base: Path, manifest: Path, model: object, **changes: object) -> TrainConfig:
    stage = {"stage__alignment": "frame", "stage__name": "stage2", "model": model}
    return load_config(TrainConfig, None, config_overrides(folder, manifest, base, **stage, **changes))


@pytest.fixture(scope="module")
def pipe_of(base: Path, trained: Path, encoders: Path, model_yaml: Path) -> Callable[..., FantasyTalkingPipeline]:
    """pipe_of(encoder) loads the trained model with one of `encoders`."""

    def load(encoder: str, preset: str = str(model_yaml)) -> FantasyTalkingPipeline:
        sizes = asdict(load_model_config(preset).portrait)
        pipe = FantasyTalkingPipeline.from_base(
            base, trained, module_config=sizes, audio_encoder=encoders / encoder, text_length=8
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def latents(pipe: FantasyTalkingPipeline, portrait: Portrait, audio: np.ndarray) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(portrait, audio, num_inference_steps=1, generator=generator, output_type="latent").frames


def test_features_and_adapter_say_which_encoder_made_the_tokens(corpus: Path, trained: Path) -> None:
    dataset = PortraitDataset(corpus)
    spec = dataset.audio_encoder
    assert spec is not None and (spec.kind, spec.dim, spec.timing) == ("whisper", DIM, TokenTiming(50.0, 0.0))
    assert spec.weights and dataset[0].features.audio.shape == (17 * 50 // FPS, DIM)
    assert AudioEncoderSpec.from_dict(read_adapter_config(trained).audio_encoder, "adapter") == spec


def test_a_video_follows_the_speech(capsys, tmp_path, base, encoders, trained, model_yaml, face_picture) -> None:
    inputs = write_inputs(tmp_path, face_picture, random_speech(0.6))
    arguments = ["--image", inputs / "face.png", "--audio", inputs / "speech.wav", "--output", tmp_path / "video.mp4"]
    settings = {"model": model_yaml, "base": base, "adapter": trained, "num_inference_steps": 1, "max_text_tokens": 8}
    chosen = [f"{key}={value}" for key, value in settings.items()]
    arguments += ["--size", 32, *chosen]
    refused = run_infer(capsys, *arguments, f"audio_encoder={encoders / 'hubert'}")
    assert refused.code == 2 and "hubert" in refused.err and refused.err.count("\n") == 1
    assert files(tmp_path) == ["face.png", "speech.wav"]
    ended = run_infer(capsys, *arguments, f"audio_encoder={encoders / 'whisper'}")
    assert ended.code == 0, ended.err
    assert probe(tmp_path / "video.mp4").frames == 15


def test_a_saved_pipeline_has_whispers_encoder(
    pipe_of: Callable[..., FantasyTalkingPipeline], portrait: Portrait, tmp_path: Path
) -> None:
    pipe, audio = pipe_of("whisper"), random_speech(0.4)
    pipe.save_pretrained(tmp_path)
    loaded = FantasyTalkingPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.audio_encoder).__name__ == "WhisperSpeechEncoder"
    expected = latents(pipe, portrait, audio)
    assert torch.equal(latents(loaded, portrait, audio), expected)
    assert torch.equal(latents(FantasyTalkingPipeline.from_pipe(pipe), portrait, audio), expected)
    assert not torch.equal(latents(pipe, portrait, random_speech(0.4, seed=1)), expected)


def test_a_stream_has_the_frames_of_its_audio(
    pipe_of: Callable[..., FantasyTalkingPipeline], portrait: Portrait
) -> None:
    controls = GenerationControls(num_inference_steps=1, window_frames=17, overlap_frames=8)
    streamed = pipe_of("whisper").stream(portrait, AudioSampleQueue([random_speech(1.2)]), controls)
    assert sum(len(piece.frames) for piece in streamed) == 30


@pytest.mark.parametrize("rule", ["seconds", "official"])
def test_a_stream_hears_what_a_whole_video_hears(pipe_of: Callable[..., FantasyTalkingPipeline], rule: str) -> None:
    pipe, samples = pipe_of("whisper"), random_speech(0.6)
    encoder = audio_encoder_from_components(pipe.audio_encoder, pipe.audio_processor)
    timeline = Timeline.from_samples(len(samples), 25.0, 4)
    streaming = StreamingAudioEncoder(encoder, AudioSampleQueue([samples]), 25.0, 4, rule, 0.34)
    assert streaming.wait_for_frames(5) == timeline
    window = streaming.encode_window(first_causal_window(5, 2, timeline.num_latent_frames))
    torch.testing.assert_close(window, encode_audio(encoder, samples, timeline, rule, 0.34))


def test_inference_refuses_another_encoder_before_weights_are_read(
    base: Path, trained: Path, encoders: Path, model_yaml: Path
) -> None:
    settings = {"base": str(base), "adapter": str(trained), "model": str(model_yaml)}
    for encoder, code, value in (
        (str(encoders / "hubert"), ErrorCode.conflict, "hubert"),
        (None, ErrorCode.shape_mismatch, 128),
    ):
        with raises_input_error(code, "audio_encoder", value):
            resolve_model(InferConfig(**settings, audio_encoder=encoder))
    with raises_input_error(ErrorCode.shape_mismatch, "audio_encoder", DIM):
        resolve_model(InferConfig(**{**settings, "model": "nano"}, audio_encoder=str(encoders / "whisper")))


def test_loading_refuses_other_weights_of_the_same_size(pipe_of: Callable[..., FantasyTalkingPipeline]) -> None:
    with raises_input_error(ErrorCode.conflict, "audio_encoder") as error:
        pipe_of("retrained")
    assert "other weights" in str(error.value)
    with raises_input_error(ErrorCode.conflict, "audio_encoder", "hubert"):
        pipe_of("hubert")


def test_training_refuses_clips_that_do_not_fit_the_model(
    base: Path, corpus: Path, trained: Path, model_yaml: Path, tmp_path: Path
) -> None:
    with raises_input_error(ErrorCode.shape_mismatch, "audio_dim", DIM):
        Trainer(train_config(tmp_path / "run", base, corpus, "nano"))
    described = json.loads((trained / "config.json").read_text())
    for change, value in (({"kind": "hubert"}, "whisper"), ({"first_center": 0.0125}, (50.0, 0.0))):
        other = tmp_path / str(value)
        shutil.copytree(trained, other)
        described_otherwise = {**described, "audio_encoder": {**described["audio_encoder"], **change}}
        (other / "config.json").write_text(json.dumps(described_otherwise))
        with raises_input_error(ErrorCode.conflict, "audio_encoder", value):
            Trainer(train_config(tmp_path / "run", base, corpus, model_yaml, stage__init_from=other))
    assert not (tmp_path / "run" / "run.json").exists()

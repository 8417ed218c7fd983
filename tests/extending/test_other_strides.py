"""A base whose VAE has strides of no published Wan (4 in space, 2 in time): everything follows its configuration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.job import GenerationJob
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait, Speakers
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import TEXT_DIM
from tests.helpers.tiny_pipeline import random_speech
from tests.helpers.tiny_transformer import randomize_zero_init
from tests.helpers.tiny_wan22 import (
    PORTRAIT_SIZES,
    WAN,
    add_preset,
    save_components,
    save_transformer,
    tiny_vae_other_strides,
    train_config,
    use_configs,
)
from tests.training.tiny_corpus import make_corpus

SIZES = WAN | {"in_channels": 8 + 8 + 2, "out_channels": 8}  # noisy latents, image latents, mask


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_components(tmp_path_factory.mktemp("base"), tiny_vae_other_strides(), {})
    save_transformer(folder / "transformer", 8, SIZES)
    return folder


@pytest.fixture(scope="module")
def pipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> FantasyTalkingPipeline:
    model = load_from_wan(base, PORTRAIT_SIZES)
    randomize_zero_init(model, 0.3)
    folder = tmp_path_factory.mktemp("adapter") / "all"
    save_adapter(model, folder, AdapterConfig(["audio", "face", "motion"], "seconds"))
    pipe = FantasyTalkingPipeline.from_base(base, folder, module_config=PORTRAIT_SIZES, text_length=8)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def at_40x24(portrait: Portrait) -> Portrait:
    """Whole tokens of 8 pixels, which Wan's tokens of 16 do not divide."""
    return portrait._replace(pixels=np.ascontiguousarray(np.tile(portrait.pixels, (1, 2, 1))[:24, :40]))


def test_videos_and_streams_have_its_strides(pipe: FantasyTalkingPipeline, portrait: Portrait) -> None:
    assert (pipe.facts.geometry.token_pixels, pipe.facts.geometry.temporal_stride) == (8, 2)
    small = at_40x24(portrait)
    controls = GenerationControls(num_inference_steps=1, window_frames=11, overlap_frames=4)  # 4 k + 3 frames
    output = pipe(small, random_speech(0.6), controls=controls, output_type="latent")
    assert output.frames.shape == (1, 8, 1 + 14 // 2, 24 // 4, 40 // 4) and output.num_frames == 15
    assert len(list(pipe.iterate_frames(output.frames, 15))) == 15
    pieces = list(pipe.stream(small, AudioSampleQueue([random_speech(0.6)]), controls))
    assert sum(len(piece.frames) for piece in pieces) == 15
    with raises_input_error(ErrorCode.out_of_range, "window_frames", 12):
        pipe(small, random_speech(0.6), controls=GenerationControls(window_frames=12))


def test_regions_are_of_its_tokens(pipe: FantasyTalkingPipeline, couple: Portrait) -> None:
    regions = Speakers(couple).regions(pipe.facts.geometry, BackgroundAttention.nobody)
    assert regions is not None and regions.shape == (2, 1, 4, 8)
    speech = [random_speech(0.2), random_speech(0.2, seed=1)]
    assert pipe(couple, speech, num_inference_steps=1, face_scale=0.0).frames.shape[2:4] == (32, 64)


def test_sizes_are_checked_against_its_tokens(pipe: FantasyTalkingPipeline) -> None:
    job = GenerationJob(InferConfig(sizes=["40x40"]), Path("image.png"), (Path("speech.wav"),), Path("video.mp4"))
    assert job.plan(pipe.facts).geometry == pipe.facts.geometry
    with raises_input_error(ErrorCode.out_of_range, "sizes", "36x36"):
        replace(job, config=InferConfig(sizes=["36x36"])).plan(pipe.facts)


def test_a_corpus_of_its_latents_trains(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = use_configs(monkeypatch, tmp_path / "configs")
    add_preset(configs, "tiny-strides", base, SIZES, vae={"scale_factor_spatial": 4, "scale_factor_temporal": 2})
    corpus = make_corpus(
        tmp_path / "corpus",
        2,
        ((40, 24),),
        channels=8,
        spatial_stride=4,
        temporal_stride=2,
        image=False,
        text_dim=TEXT_DIM,
    )
    frame = {"stage__alignment": "frame", "stage__loss__weight": "lip"}
    assert Trainer(train_config("tiny-strides", tmp_path / "run", corpus, base, **frame)).train().is_dir()

"""Wan 2.2 bases elsewhere than on the CPU, and with what inference changes on a CPU: the videos are the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.inference.optimizations import OptimizationConfig, apply_optimizations
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait
from tests.helpers.tiny_pipeline import random_speech
from tests.helpers.tiny_transformer import randomize_zero_init
from tests.helpers.tiny_wan22 import PORTRAIT_SIZES, load_a14b, save_5b, save_a14b, save_adapters
from tests.pipeline.test_second_device import agree

Open = Callable[[], FantasyTalkingPipeline]
CONTROLS = GenerationControls(prompt="hello", num_inference_steps=3, window_frames=17, overlap_frames=8)


@pytest.fixture(scope="module", params=["5b", "a14b"])
def open_pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Open:
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "a14b":
        base, adapters = save_a14b(folder / "base"), folder / "adapters"
        saved = save_adapters(base, adapters)
        return lambda: load_a14b(base, saved)
    base = save_5b(folder / "base")
    model = load_from_wan(base, PORTRAIT_SIZES)
    randomize_zero_init(model, 0.3)
    save_adapter(model, folder / "adapter", AdapterConfig(["audio", "face", "motion"], "seconds"))
    return lambda: FantasyTalkingPipeline.from_base(
        base, folder / "adapter", module_config=PORTRAIT_SIZES, text_length=8
    )


def long_video(pipe: FantasyTalkingPipeline, portrait: Portrait) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return np.asarray(pipe(portrait, random_speech(0.8), controls=CONTROLS, generator=generator).frames)


def stream(pipe: FantasyTalkingPipeline, portrait: Portrait) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    speech, generator = AudioSampleQueue([random_speech(0.8)]), torch.Generator().manual_seed(0)
    pieces = list(pipe.stream(portrait, speech, CONTROLS, generator=generator))
    return np.concatenate([piece.frames for piece in pieces]) / 255.0


@pytest.mark.parametrize("open_pipeline", ["a14b"], indirect=True)
def test_nothing_stays_on_the_cpu(open_pipeline: Open, portrait: Portrait) -> None:
    agree(open_pipeline, lambda pipe: long_video(pipe, portrait))


@pytest.mark.parametrize("open_pipeline", ["5b"], indirect=True)
def test_nothing_of_a_stream_stays_on_the_cpu(open_pipeline: Open, portrait: Portrait) -> None:
    agree(open_pipeline, lambda pipe: stream(pipe, portrait))


@pytest.mark.slow
@pytest.mark.parametrize("make", [long_video, stream])
def test_nothing_of_any_model_stays_on_the_cpu(
    open_pipeline: Open, portrait: Portrait, make: Callable[[FantasyTalkingPipeline, Portrait], np.ndarray]
) -> None:
    agree(open_pipeline, lambda pipe: make(pipe, portrait))


def test_the_ways_of_a_cpu_change_roundings_only(open_pipeline: Open, portrait: Portrait) -> None:
    expected, pipe = long_video(open_pipeline(), portrait), open_pipeline()
    apply_optimizations(pipe.experts, OptimizationConfig(), torch.device("cpu"))
    np.testing.assert_allclose(long_video(pipe, portrait), expected, atol=0.004)  # one grey level

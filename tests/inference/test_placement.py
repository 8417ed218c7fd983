"""Where the components of a pipeline are: what is freed, what waits in main memory, and that no video depends on it."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import UMT5EncoderModel

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.placement import place_pipeline
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait
from fantasytalking.pipeline.loading import model_components
from tests.helpers.errors import raises_input_error
from tests.helpers.second_device import SecondDeviceTensor, second_device
from tests.helpers.tiny_pipeline import load_tiny_pipeline, random_speech

CPU = torch.device("cpu")
CONTROLS = GenerationControls(
    prompt="hello", negative_prompt="bad", num_inference_steps=1, window_frames=17, overlap_frames=8
)


def config(*overrides: str) -> InferConfig:
    return load_config(InferConfig, preset_path("nano", "infer"), ["device=cpu", *overrides])


def video(pipe: FantasyTalkingPipeline, portrait: Portrait) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return np.asarray(pipe(portrait, random_speech(0.5), controls=CONTROLS, generator=generator).frames)


@pytest.fixture(scope="module")
def expected(pipe: FantasyTalkingPipeline, portrait: Portrait) -> np.ndarray:
    return video(pipe, portrait)


@pytest.fixture
def open_one(base: Path, adapters: Path) -> Callable[[], FantasyTalkingPipeline]:
    return lambda: load_tiny_pipeline(base, adapters / "all")


def num_text_encoders() -> int:
    gc.collect()
    return sum(isinstance(each, UMT5EncoderModel) for each in gc.get_objects())


@pytest.mark.parametrize("is_saved", [True, False])
def test_the_text_encoder_is_freed_before_the_transformer_is_loaded(
    is_saved: bool, saved: Path, base: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = [f"base={saved}"] if is_saved else [f"base={base}", f"adapter={adapters / 'all'}"]
    settings = config(*source)
    model, before, seen = resolve_model(settings), num_text_encoders(), []
    load = model_components.load_transformer
    monkeypatch.setattr(
        model_components, "load_transformer", lambda *args: (seen.append(num_text_encoders()), load(*args))[1]
    )
    whole, alone = load_pipeline(settings, model), load_pipeline(settings, model, ["a  person", ""])
    assert seen == [before + 1, before + 1] and alone.text_encoder is None  # the first pipeline still has its own
    for found, wanted in zip(alone.encode_prompt("a person"), whole.encode_prompt("a person"), strict=True):
        assert torch.equal(found, wanted)
    with raises_input_error(ErrorCode.unsupported, "prompt", "another"):
        alone.encode_prompt("another")


def test_a_text_encoder_stays_on_the_cpu(
    open_one: Callable[[], FantasyTalkingPipeline], portrait: Portrait, expected: np.ndarray
) -> None:
    pipe = open_one()
    with second_device() as device:
        place_pipeline(pipe, config("optimizations.text_encoder_device=cpu"), device)
        assert type(pipe.text_encoder.shared.weight.data) is not SecondDeviceTensor
        assert type(pipe.transformer.proj_out.weight.data) is SecondDeviceTensor
        found = video(pipe, portrait)
    assert pipe.config["text_encoder"] == ("transformers", "UMT5EncoderModel")  # as saving needs it
    np.testing.assert_allclose(found, expected, atol=0.004)  # one grey level


@pytest.mark.parametrize("overrides", [[], ["optimizations.offload_blocks=2"]])
def test_groups_of_layers_and_of_blocks_give_the_same_bits(
    open_one: Callable[[], FantasyTalkingPipeline], portrait: Portrait, expected: np.ndarray, overrides: list[str]
) -> None:
    pipe = open_one()
    place_pipeline(pipe, config("offload=group", "optimizations.offload_prefetch=false", *overrides), CPU)
    assert np.array_equal(video(pipe, portrait), expected)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [(["optimizations.offload_blocks=2"], 2), (["offload=group", "optimizations.offload_blocks=4"], 4)],
)
def test_groups_that_cannot_be_are_refused(overrides: list[str], value: int) -> None:
    with raises_input_error(ErrorCode.conflict, "optimizations.offload_blocks", value):
        config(*overrides)

"""A base of the kind of Wan2.2-I2V-A14B: two experts, equal to diffusers' pipeline, trained, saved and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel

from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.flow_matching import sample_sigmas
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.optimizations import OptimizationConfig, StepCache
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.experts import Expert, Experts
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait
from fantasytalking.pipeline.loading.stored_model import StoredModel
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from tests.extending.diffusers_steps import SECONDS, assert_equal_steps, latents_of_both
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import TEXT_DIM
from tests.helpers.tiny_pipeline import random_speech
from tests.helpers.tiny_transformer import tiny_transformer
from tests.helpers.tiny_wan22 import (
    BOUNDARY,
    WAN_A14B,
    Adapters,
    add_preset,
    load_a14b,
    save_a14b,
    save_adapters,
    train_config,
    use_configs,
)
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, read_losses
from tests.training.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_a14b(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    """One for each expert; both do something."""
    return save_adapters(base, tmp_path_factory.mktemp("adapters"), std=0.3)


@pytest.fixture(scope="module")
def pipe(base: Path, adapters: Adapters) -> FantasyTalkingPipeline:
    return load_a14b(base, adapters)


def video(pipe: FantasyTalkingPipeline, portrait: Portrait, **changes: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 3, "generator": torch.manual_seed(0), **changes}
    return pipe(portrait, random_speech(SECONDS), **arguments).frames


@pytest.mark.parametrize("scales", [(1.0, 1.0), (3.0, 2.0)])
def test_fresh_experts_denoise_as_diffusers_step_by_step(
    base: Path, portrait: Portrait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: tuple[float, float]
) -> None:
    ours = load_a14b(base, save_adapters(base, tmp_path, std=0))
    called = dict.fromkeys(Expert, 0)
    for expert in Expert:

        def count(*_: Any, expert: Expert = expert) -> None:
            called[expert] += 1

        ours.experts.transformer(expert).register_forward_pre_hook(count)
    parts = {name: WanTransformer3DModel.from_pretrained(base / name) for name in ("transformer", "transformer_2")}
    both = latents_of_both(monkeypatch, ours, portrait, scales, boundary_ratio=BOUNDARY, **parts)
    assert_equal_steps(*both, is_guided=scales[0] > 1)
    assert all(called.values()), "both experts predict in these steps"


def test_the_boundary_belongs_to_the_high_noise_expert() -> None:
    high, low = tiny_transformer(0), tiny_transformer(1)
    experts = Experts(high, low, 0.9)
    assert [experts.at(timestep) for timestep in (1000.0, torch.tensor(900.0), 899.9, 0.0)] == [
        *(Expert.high, Expert.high, Expert.low, Expert.low)
    ]
    assert experts.transformer(Expert.low) is low and list(experts) == [high, low]
    assert Experts(high).at(0.0) is Expert.high
    with raises_input_error(ErrorCode.conflict, "boundary_ratio"):
        Experts(high, low)
    with raises_input_error(ErrorCode.conflict, "transformer_2", "num_layers"):
        Experts(high, tiny_transformer(num_layers=1), 0.9)


def test_a_saved_pipeline_has_both_experts(
    pipe: FantasyTalkingPipeline, portrait: Portrait, tmp_path: Path, base: Path, adapters: Adapters
) -> None:
    expected = video(pipe, portrait)
    pipe.save_pretrained(tmp_path / "saved")
    assert np.array_equal(video(FantasyTalkingPipeline.from_pretrained(tmp_path / "saved"), portrait), expected)
    assert np.array_equal(video(FantasyTalkingPipeline.from_pipe(pipe), portrait), expected)
    config = InferConfig(
        model="nano",
        base=str(tmp_path / "saved"),
        optimizations=OptimizationConfig(step_cache=StepCache.none),
    )
    model = resolve_model(config)
    assert model.facts.has_experts and model.stored.experts == list(Expert)
    assert load_pipeline(config, model).transformer_2 is not None
    swapped = {Expert.high: adapters[Expert.low], Expert.low: adapters[Expert.high]}
    with raises_input_error(ErrorCode.conflict, "adapter", "low"):
        load_a14b(base, swapped)
    with raises_input_error(ErrorCode.missing_value, "adapter_2"):
        StoredModel.read(base, adapters[Expert.high])
    (tmp_path / "saved" / "model_index.json").write_text('{"_class_name": "WanImageToVideoPipeline"}')
    with raises_input_error(ErrorCode.malformed_file, "boundary_ratio"):
        StoredModel.read(tmp_path / "saved", adapters[Expert.high], adapter_2=adapters[Expert.low])


def test_each_expert_matters_and_has_its_own_guidance(pipe: FantasyTalkingPipeline, portrait: Portrait) -> None:
    guided = {"prompt_embeds": torch.randn(1, 8, TEXT_DIM, generator=torch.manual_seed(1))}
    plain = video(pipe, portrait, **guided)
    assert np.array_equal(video(pipe, portrait, text_guidance_scale_2=5.0, **guided), plain), "that of both experts"
    assert not np.array_equal(video(pipe, portrait, text_guidance_scale_2=2.0, **guided), plain)


def test_one_transformer_has_no_second_guidance_scale(pipe: FantasyTalkingPipeline, portrait: Portrait) -> None:
    components = {name: part for name, part in pipe.components.items() if name != "transformer_2"}
    alone = FantasyTalkingPipeline(**components, text_length=8)
    with raises_input_error(ErrorCode.unsupported, "guidance.text_2", 2.0):
        alone(portrait, random_speech(SECONDS), text_guidance_scale_2=2.0)


def test_long_videos_streams_and_step_caches(base: Path, adapters: Adapters, portrait: Portrait) -> None:
    pipe = load_a14b(base, adapters)
    controls = GenerationControls(num_inference_steps=3, window_frames=17, overlap_frames=8)
    assert pipe(portrait, random_speech(1.2), controls=controls).num_frames == 30
    for transformer in pipe.experts:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    assert pipe(portrait, random_speech(1.2), controls=controls).num_frames == 30
    pieces = list(pipe.stream(portrait, AudioSampleQueue([random_speech(1.2)]), controls))
    assert sum(len(piece.frames) for piece in pieces) == 30


def test_a_lora_is_loaded_into_one_of_the_experts(base: Path, adapters: Adapters, portrait: Portrait) -> None:
    pipe, layer = load_a14b(base, adapters), "blocks.1.attn1.to_q"
    down, up = (torch.randn(*shape, generator=torch.manual_seed(0)) for shape in ((2, 48), (48, 2)))
    lora = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    before = video(pipe, portrait)
    pipe.load_lora_weights(lora, adapter_name="low", load_into_transformer_2=True)
    assert "low" in pipe.transformer_2.peft_config and not hasattr(pipe.transformer, "peft_config")
    assert not np.array_equal(video(pipe, portrait), before)
    pipe.fuse_lora(components=["transformer_2"])
    pipe.unload_lora_weights()
    assert not np.array_equal(video(pipe, portrait), before)
    components = {name: part for name, part in pipe.components.items() if name != "transformer_2"}
    with raises_input_error(ErrorCode.unsupported, "load_into_transformer_2", True):
        FantasyTalkingPipeline(**components).load_lora_weights(lora, load_into_transformer_2=True)


def test_optimizations_of_one_transformer_are_refused() -> None:
    with raises_input_error(ErrorCode.conflict, "optimizations.few_step_lora_2", None):
        OptimizationConfig(few_step_lora="a.safetensors").check_experts(True)
    with raises_input_error(ErrorCode.conflict, "optimizations.few_step_lora_2", "b.safetensors"):
        OptimizationConfig(few_step_lora="a.safetensors", few_step_lora_2="b.safetensors").check_experts(False)
    with raises_input_error(ErrorCode.unsupported, "optimizations.step_cache", "mag_cache"):
        OptimizationConfig(step_cache=StepCache.mag_cache, mag_ratios=[1.0]).check_experts(True)


@pytest.fixture
def configure(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    """configure("name", key__sub=value) is a training configuration of the preset tiny-a14b."""
    configs = use_configs(monkeypatch, tmp_path / "configs")
    add_preset(configs, "tiny-a14b", base, WAN_A14B, boundary_ratio=BOUNDARY)
    corpus = make_corpus(tmp_path / "corpus", clips=4, image=False, text_dim=TEXT_DIM)
    return lambda name, **changes: train_config("tiny-a14b", tmp_path / name, corpus, base, **changes)


def test_each_expert_trains_in_its_range_and_resumes(
    configure: Callable[..., TrainConfig], base: Path, portrait: Portrait
) -> None:
    trained: Adapters = {}
    for expert in Expert:
        first = Trainer(configure(f"{expert.value}1", stage__steps=1, stage__expert=expert.value)).train()
        changes = {"stage__expert": expert.value, "stage__init_from": first, "stage__alignment": "frame"}
        changes |= {"stage__name": "stage2", "stage__loss__weight": "lip"}
        straight = Trainer(configure(f"{expert.value}-straight", stage__steps=4, **changes)).train()
        Trainer(configure(f"{expert.value}-resumed", stage__steps=2, **changes)).train()
        trained[expert] = Trainer(configure(f"{expert.value}-resumed", stage__steps=4, **changes)).train()
        assert bit_equal(load_adapter_tensors(trained[expert].parent), load_adapter_tensors(straight.parent))
        assert read_losses(trained[expert].parent) == read_losses(straight.parent)
        assert read_adapter_config(trained[expert]).expert == expert.value
    assert video(load_a14b(base, trained), portrait, num_inference_steps=2).shape == (1, 9, 32, 32, 3)
    with raises_input_error(ErrorCode.conflict, "stage.init_from", "low"):
        Trainer(configure("mixed", stage__expert="high", stage__init_from=trained[Expert.low]))


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_an_expert_draws_the_noise_levels_that_it_predicts(
    configure: Callable[..., TrainConfig], distribution: str
) -> None:
    drawn = {}
    for expert in Expert:
        config = configure("run", stage__expert=expert.value, stage__loss__sigmas__distribution=distribution)
        uniforms = torch.linspace(0, 1 - 1e-6, 101)
        drawn[expert] = sample_sigmas(uniforms, config.stage.loss.sigmas, config.sigma_range)
    assert drawn[Expert.high].min() >= BOUNDARY - 1e-6 and drawn[Expert.high].max() > 0.99
    assert drawn[Expert.low].max() <= BOUNDARY + 1e-6 and drawn[Expert.low].min() < 0.1
    whole = sample_sigmas(torch.rand(20_000, generator=torch.manual_seed(0)), config.stage.loss.sigmas)
    below = whole[whole < BOUNDARY]  # the same distribution, restricted
    assert float(drawn[Expert.low].median()) == pytest.approx(float(below.median()), abs=0.01)


def test_a_run_names_its_expert(configure: Callable[..., TrainConfig]) -> None:
    with raises_input_error(ErrorCode.missing_value, "stage.expert"):
        configure("run")
    with raises_input_error(ErrorCode.unsupported, "stage.expert", "high"):
        configure("run", model="nano", stage__expert="high")

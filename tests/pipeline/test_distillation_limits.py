"""A distilled adapter in the pipeline: one call a step, as many steps as windows, and nothing it was not taught."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.pipeline import FantasyTalkingPipeline, GuidanceSchedule, Portrait
from fantasytalking.pipeline.generation_plan import resolve_num_inference_steps
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import DISTILLATION, LORA, load_tiny_pipeline, random_speech


@pytest.fixture(scope="module")
def distilled(saved: Path, fast: Path) -> FantasyTalkingPipeline:
    pipe = FantasyTalkingPipeline.from_pretrained(saved, adapter=fast)
    pipe.set_progress_bar_config(disable=True)
    return pipe


Make = Callable[..., np.ndarray]


@pytest.fixture
def make(distilled: FantasyTalkingPipeline, portrait: Portrait) -> Make:
    def video(**changes: Any) -> np.ndarray:
        options = {"window_frames": 9, "overlap_frames": 4, "prompt": "someone", **changes}
        generator = torch.Generator().manual_seed(0)
        made = distilled(portrait, random_speech(0.3), generator=generator, output_type="latent", **options)
        return made.frames.numpy()

    return video


def test_a_video_takes_one_call_for_each_window(distilled: FantasyTalkingPipeline, make: Make):
    asked: list[tuple[float, list[list[float]], int]] = []

    def note(_: Any, arguments: tuple[Any, ...], __: Any) -> None:
        latents, timestep, conditions = arguments
        asked.append((float(timestep[0]), conditions.guidance.tolist(), len(latents)))

    hook = distilled.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        make(text_guidance_scale=3.0, audio_guidance_scale=6.0)
    finally:
        hook.remove()
    boundaries = [1000 * 5 * x / (1 + 4 * x) for x in (1.0, 0.75, 0.5, 0.25)]
    assert [moment for moment, _, _ in asked] == pytest.approx(boundaries, rel=1e-5)
    assert [(scales, batch) for _, scales, batch in asked] == [([[3.0, 6.0]], 1)] * 4


def test_scales_and_motion_are_followed(make: Make):
    first = make()
    assert np.array_equal(make(), first)
    for change in ({"text_guidance_scale": 2.0}, {"audio_guidance_scale": 3.0}, {"motion": 0.9}):
        assert np.abs(make(**change) - first).max() > 1e-3


def test_the_lora_is_fused_and_counts(distilled: FantasyTalkingPipeline, saved: Path):
    before = FantasyTalkingPipeline.from_pretrained(saved).transformer
    after = dict(distilled.transformer.named_parameters())
    assert not any(".lora_" in name for name in after)
    assert all(not parameter.requires_grad for parameter in after.values())
    changed = {name for name, value in before.named_parameters() if not torch.equal(value, after[name])}
    assert changed == {f"blocks.{n}.{layer}.weight" for n in (0, 1) for layer in LORA.targets}


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"num_inference_steps": 6}, "num_inference_steps", "takes 4 or a multiple of it"),
        ({"audio_guidance_scale": GuidanceSchedule(5, 3)}, "guidance.audio", "schedule"),
        ({"text_guidance_scale": GuidanceSchedule(5, 5, 0.5)}, "guidance.text", "schedule"),
        ({"audio_guidance_scale": 7.5}, "guidance.audio.scale_start", "1 to 7"),
        ({"guidance_order": CfgOrder.audio_first}, "guidance.order", "text_first"),
        ({"color_rescale": 0.5}, "guidance.color_rescale", "0.5"),
        ({"negative_prompt": "blurred"}, "negative_prompt", "blurred"),
    ],
)
def test_what_it_was_not_distilled_for_is_refused(make: Make, change: dict[str, Any], field: str, limit: str):
    with raises_input_error(ErrorCode.unsupported, field) as error:
        make(**change)
    (value,) = change.values()
    assert error.value.value == (value.value if isinstance(value, CfgOrder) else value)
    assert limit in str(error.value)


@pytest.mark.parametrize(
    ("scheduler", "field"),
    [
        (make_scheduler(SchedulerType.unipc), "scheduler"),
        (make_scheduler(SchedulerType.euler, 3.0), "flow_shift"),
    ],
)
def test_a_scheduler_that_misses_the_windows_is_refused(
    distilled: FantasyTalkingPipeline, make: Make, scheduler: Any, field: str
):
    own, distilled.scheduler = distilled.scheduler, scheduler
    try:
        with raises_input_error(ErrorCode.unsupported, field):
            make()
    finally:
        distilled.scheduler = own


def test_the_number_of_steps():
    assert [resolve_num_inference_steps(None, None), resolve_num_inference_steps(None, 7)] == [30, 7]
    assert [resolve_num_inference_steps(DISTILLATION, None), resolve_num_inference_steps(DISTILLATION, 8)] == [4, 8]
    with raises_input_error(ErrorCode.out_of_range, "num_inference_steps", 0):
        resolve_num_inference_steps(None, 0)


def test_weights_tell_what_a_fast_adapter_goes_on(saved: Path, base: Path, adapters: Path, fast: Path):
    facts = resolve_model(InferConfig(base=str(saved), adapter=str(fast))).facts
    assert facts.trained_modules == ("audio", "face", "motion")
    assert facts.distillation == DISTILLATION
    assert resolve_model(InferConfig(base=str(saved))).facts.distillation is None
    with raises_input_error(ErrorCode.conflict, "base", str(base)):
        resolve_model(InferConfig(base=str(base), adapter=str(fast)))


def test_an_adapter_that_hears_otherwise_is_refused(saved: Path, fast: Path, tmp_path: Path):
    other = shutil.copytree(fast, tmp_path / "other")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**values, "audio_window": "official"}))
    with raises_input_error(ErrorCode.conflict, "audio_window", "official"):
        FantasyTalkingPipeline.from_pretrained(saved, adapter=other)


def test_what_does_not_go_on_a_saved_pipeline_is_refused(saved: Path, adapters: Path, fast: Path, pipe):
    with raises_input_error(ErrorCode.conflict, "adapter", str(adapters / "all")):
        FantasyTalkingPipeline.from_pretrained(saved, adapter=adapters / "all")
    with raises_input_error(ErrorCode.conflict, "transformer"):
        FantasyTalkingPipeline.from_pretrained(saved, adapter=fast, transformer=pipe.transformer)


def test_an_adapter_that_holds_everything_opens_on_a_base(
    base: Path, tmp_path: Path, distilled: FantasyTalkingPipeline
):
    model = distilled.transformer
    config = AdapterConfig(["audio", "face", "motion", "guidance"], "seconds", distillation=DISTILLATION.to_dict())
    save_adapter(model, tmp_path / "whole", config)
    pipe = load_tiny_pipeline(base, tmp_path / "whole")
    assert pipe.transformer.distillation == DISTILLATION
    assert pipe.trained_modules == ["audio", "face", "motion"]

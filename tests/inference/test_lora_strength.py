"""A LoRA whose strength changes from step to step: every step is that of a model with this strength."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.optimizations import LoraFile, OptimizationConfig, apply_optimizations
from fantasytalking.models.lora_schedule import StepStrength
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import load_tiny_pipeline, random_speech

CPU = torch.device("cpu")
Open = Callable[..., FantasyTalkingPipeline]


@pytest.fixture
def open_with(base: Path, adapters: Path, tmp_path: Path) -> Open:
    """A pipeline with a LoRA of the text's keys, which are computed once per video, and of a bias."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "blocks.0.attn2.to_k.lora_A.weight": torch.randn(2, 48, generator=generator),
        "blocks.0.attn2.to_k.lora_B.weight": torch.randn(48, 2, generator=generator),
        "blocks.0.ffn.2.diff_b": torch.ones(48),
    }
    save_file(tensors, tmp_path / "lora.safetensors")

    def open_one(**lora: Any) -> FantasyTalkingPipeline:
        pipe = load_tiny_pipeline(base, adapters / "all")
        files = [LoraFile(str(tmp_path / "lora.safetensors"), **lora)] if lora else []
        apply_optimizations(pipe.experts, OptimizationConfig(loras=files), CPU)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return open_one


def latents_by_step(
    pipe: FantasyTalkingPipeline, portrait: Portrait, begin: list[Tensor] | None = None
) -> list[Tensor]:
    """Latents after each of two steps; `begin` replaces those after the first one."""
    found = []

    def keep(_: object, step: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        found.append(values["latents"])
        return {"latents": begin[0]} if begin and not step else {}

    pipe(
        portrait,
        random_speech(0.3),
        "hello",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return found


@pytest.mark.parametrize("lora", [{"strength": [1.0, 0.0]}, {"stop": 0.5}])
def test_every_step_is_that_of_a_constant_strength(open_with: Open, portrait: Portrait, lora: dict[str, Any]) -> None:
    found = latents_by_step(open_with(scale=2.0, **lora), portrait)
    with_lora = latents_by_step(open_with(scale=2.0), portrait)
    without = latents_by_step(open_with(), portrait, begin=found)
    torch.testing.assert_close(found[0], with_lora[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], without[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], with_lora[1], rtol=1e-2, atol=1e-3)


def test_strengths_follow_the_steps() -> None:
    assert [StepStrength((), 0.25, 0.75).at(step, 4) for step in range(4)] == [0, 1, 1, 0]
    assert StepStrength().is_constant and not StepStrength((1.0,)).is_constant
    with raises_input_error(ErrorCode.conflict, "strength", 2):
        StepStrength((1.0, 0.5)).at(0, 3)


@pytest.mark.parametrize(
    ("lora", "code", "field", "value"),
    [
        ("strength: [1, 1]", ErrorCode.conflict, "optimizations.loras[0].strength", 2),
        ("strength: [9, 1, 1]", ErrorCode.out_of_range, "optimizations.loras[0].strength", 9.0),
        ("start: 0.5, stop: 0.5", ErrorCode.conflict, "optimizations.loras[0].start", 0.5),
        ("strength: [1, 1, 1], stop: 0.5", ErrorCode.conflict, "optimizations.loras[0].start", 0.0),
    ],
)
def test_strengths_that_cannot_be_are_refused(lora: str, code: ErrorCode, field: str, value: float) -> None:
    settings = [f"optimizations.loras=[{{path: a.safetensors, {lora}}}]", "num_inference_steps=3"]
    with raises_input_error(code, field, value):
        load_config(InferConfig, preset_path("nano", "infer"), settings)

"""An adapter that was trained on a saved pipeline is loaded onto it, whatever modules it has."""

from pathlib import Path

import pytest
import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.checkpoints.lora import add_lora
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import EXPRESSION, LORA


@pytest.fixture(scope="module")
def trained_on(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound trained further beside a fresh expression condition and a LoRA."""
    torch.manual_seed(8)
    model = FantasyTalkingPipeline.from_pretrained(saved).transformer
    ensure_expression_modules(model, EXPRESSION)
    add_lora(model, LORA, torch.float32)
    with torch.no_grad():
        model.audio_projector.norm.bias.add_(0.25)
    folder = tmp_path_factory.mktemp("trained_on") / "adapter"
    described = AdapterConfig(
        ["audio", "expression"], "seconds", on_saved=True, expression=EXPRESSION.to_dict(), lora=LORA.to_dict()
    )
    save_adapter(model, folder, described)
    return folder


def test_it_replaces_what_it_brings_and_leaves_the_rest(saved: Path, trained_on: Path):
    before = FantasyTalkingPipeline.from_pretrained(saved).transformer.state_dict()
    pipe = FantasyTalkingPipeline.from_pretrained(saved, adapter=trained_on)
    after = pipe.transformer.state_dict()
    changed = {name for name, value in before.items() if name in after and not torch.equal(value, after[name])}
    assert changed == {"audio_projector.norm.bias"}
    new = {
        adapter_module_of(name) for name in after.keys() - before.keys() if "lora" not in name and "base" not in name
    }
    assert new == {"expression"}
    assert any(".lora_" in name for name in after)
    assert pipe.trained_modules == ["audio", "face", "motion", "expression"]
    model = resolve_model(InferConfig(base=str(saved), adapter=str(trained_on)))
    assert model.facts.trained_modules == ("audio", "face", "motion", "expression")


def test_on_a_bare_base_it_is_refused(base: Path, trained_on: Path):
    with raises_input_error(ErrorCode.conflict, "base", str(base)):
        resolve_model(InferConfig(base=str(base), adapter=str(trained_on)))

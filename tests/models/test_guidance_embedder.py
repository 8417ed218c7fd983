"""The guidance embedder: no effect when new, follows the scales when trained; invalid distillations are rejected."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, save_adapter
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.cfg_branches import FULL_BRANCH, CfgOrder, GuidanceBranch, cfg_branch_weights
from fantasytalking.models.guidance_embedder import DistillationSpec
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

DISTILLATION = DistillationSpec(4, 3.0, (1.0, 7.0), (2.0, 6.0), CfgOrder.text_first, 8)
SCALES = torch.tensor([[4.0, 5.0], [1.5, 3.0]])


def predicted(model: torch.nn.Module, scales: torch.Tensor | None) -> torch.Tensor:
    with torch.no_grad():
        return model(*tiny_latents(), tiny_conditions()._replace(guidance=scales)).sample


def test_a_new_embedder_changes_nothing_and_a_trained_one_follows_the_scales():
    plain = tiny_transformer()
    model = tiny_transformer()
    model.add_guidance_embedder(DISTILLATION)
    before = predicted(plain, None)
    assert torch.equal(predicted(model, None), before)
    assert torch.equal(predicted(model, SCALES), before)
    torch.nn.init.normal_(model.guidance_embedder.output.weight)
    assert torch.equal(predicted(model, None), before)  # the teacher takes no scales
    guided = predicted(model, SCALES)
    for changed in (SCALES + torch.tensor([1.0, 0.0]), SCALES + torch.tensor([0.0, 0.5])):
        assert (predicted(model, changed) - guided).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def test_scales_are_rejected_by_a_model_that_is_not_distilled():
    with raises_input_error(ErrorCode.not_trained, "guidance"):
        predicted(tiny_transformer(), SCALES)


@pytest.mark.parametrize("order", CfgOrder)
def test_branch_weights_equal_the_guidance_formula(order: CfgOrder):
    nothing, text, audio, both = (torch.tensor(value) for value in (0.3, -1.0, 2.0, 5.0))
    value = {
        GuidanceBranch(False, False): nothing,
        GuidanceBranch(True, False): text,
        GuidanceBranch(False, True): audio,
        FULL_BRANCH: both,
    }
    found = sum(weight * value[branch] for branch, weight in cfg_branch_weights(order, 4.0, 6.0))
    if order is CfgOrder.text_first:
        expected = nothing + 4 * (text - nothing) + 6 * (both - text)
    else:
        expected = nothing + 6 * (audio - nothing) + 4 * (both - audio)
    assert float(found) == pytest.approx(float(expected))


def adapter(folder: Path, **changes: Any) -> Path:
    model = tiny_transformer()
    model.add_guidance_embedder(DISTILLATION)
    torch.nn.init.normal_(model.guidance_embedder.output.weight)
    values = DISTILLATION.to_dict() | changes
    save_adapter(model, folder, AdapterConfig(["guidance"], "seconds", distillation=values))
    return folder


def test_an_adapter_adds_its_embedder_and_distillation(tmp_path: Path):
    model = tiny_transformer()
    load_adapter(model, adapter(tmp_path / "fast"))
    assert model.distillation == DISTILLATION
    assert DistillationSpec.from_dict(model.config.distillation, "config") == DISTILLATION
    first, second = predicted(model, SCALES), predicted(model, None)
    load_adapter(model, tmp_path / "fast")
    assert torch.equal(predicted(model, SCALES), first)
    assert not torch.equal(first, second)


def test_a_saved_transformer_stays_distilled(tmp_path: Path):
    model = tiny_transformer()
    load_adapter(model, adapter(tmp_path / "fast"))
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    assert again.distillation == DISTILLATION
    assert torch.equal(predicted(again, SCALES), predicted(model, SCALES))


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": 0},
        {"windows": True},
        {"shift": "3"},
        {"text": [7.0, 1.0]},
        {"audio": [1.0]},
        {"formula": "both"},
        {"width": 1 << 20},
        {"speed": 2},
    ],
)
def test_invalid_distillations_are_rejected(changes: dict[str, Any]):
    values = DISTILLATION.to_dict() | changes
    code = ErrorCode.malformed_file if "speed" in changes else ErrorCode.out_of_range
    with raises_input_error(code, "distillation", values):
        DistillationSpec.from_dict(values, "here")


def test_an_adapter_of_another_width_or_distillation_changes_nothing(tmp_path: Path):
    fast = adapter(tmp_path / "fast")
    model = tiny_transformer()
    text = (fast / "config.json").read_text()
    (fast / "config.json").write_text(text.replace('"width": 8', '"width": 9'))
    with raises_input_error(ErrorCode.shape_mismatch, "guidance_embedder.inner.weight"):
        load_adapter(model, fast)
    assert model.guidance_embedder is None
    (fast / "config.json").write_text(text.replace('"windows": 4', '"windows": 5'))
    model.add_guidance_embedder(DISTILLATION)
    with raises_input_error(ErrorCode.conflict, "distillation", DISTILLATION.to_dict() | {"windows": 5}):
        load_adapter(model, fast)


def test_guidance_module_and_distillation_require_each_other():
    with raises_input_error(ErrorCode.conflict, "distillation", None):
        AdapterConfig(["guidance"], "seconds").validate("here")
    with raises_input_error(ErrorCode.conflict, "distillation", DISTILLATION.to_dict()):
        AdapterConfig(["audio"], "seconds", distillation=DISTILLATION.to_dict()).validate("here")

"""Loading an expression condition into a model without one, from our adapters and from the released files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.released_portrait import write_released_expression
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_transformer

SIZES = ExpressionModuleConfig(
    (3, 2, 4, 5), (0, 0, 2, 3), token_dim=16, width=12, depth=2, heads=2
)  # released heads of 64


def expressive() -> FantasyTalkingTransformer3DModel:
    return tiny_transformer(seed=4, expression=SIZES.to_dict())


def expression_of(model: FantasyTalkingTransformer3DModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if adapter_module_of(name) == "expression"}


def write(kind: str, folder: Path) -> Path:
    source = expressive()
    if kind == "adapter":
        save_adapter(source, folder / kind, AdapterConfig(["expression"], "seconds", expression=SIZES.to_dict()))
    else:
        write_released_expression(expression_of(source), folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", ["adapter", "released.ckpt", "port.safetensors"])
def test_an_expression_condition_is_added_to_a_model_without_one(tmp_path: Path, kind: str):
    model = tiny_transformer(seed=9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    padding = "masked" if kind == "adapter" else "attended"
    assert load_expression_adapter(model, write(kind, tmp_path)) == replace(SIZES, padding=padding)
    wanted = expression_of(expressive())
    assert all(torch.equal(value, wanted[name]) for name, value in expression_of(model).items())
    assert expression_of(model).keys() == wanted.keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.expression_config == replace(SIZES, padding=padding)
    assert model.config.expression == replace(SIZES, padding=padding).to_dict()


@pytest.mark.parametrize("kind", ["adapter", "released.ckpt"])
def test_an_adapter_for_another_transformer_changes_nothing(tmp_path: Path, kind: str):
    source = write(kind, tmp_path)
    shallow = tiny_transformer(num_layers=2)
    with raises_input_error(ErrorCode.shape_mismatch) as error:
        load_expression_adapter(shallow, source)
    assert (error.value.field or "").startswith("blocks.2.attn2.expression_")
    assert shallow.expression_projector is None and shallow.expression_config is None
    other = tiny_transformer(expression=replace(SIZES, depth=1).to_dict())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    sizes = (SIZES if kind == "adapter" else replace(SIZES, depth=1)).to_dict()  # those that the message begins with
    with raises_input_error(ErrorCode.shape_mismatch, "expression", sizes):
        load_expression_adapter(other, source)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in before.items())


def test_an_adapter_without_an_expression_is_rejected(tmp_path: Path):
    save_adapter(tiny_transformer(), tmp_path / "sound", AdapterConfig(["audio", "face"], "seconds"))
    with raises_input_error(ErrorCode.not_trained, "modules", ["audio", "face"]) as error:
        load_expression_adapter(tiny_transformer(), tmp_path / "sound")
    assert "train_portrait.py" in str(error.value)
    with pytest.raises(InputError, match="nothing"):
        load_expression_adapter(tiny_transformer(), tmp_path / "nothing")

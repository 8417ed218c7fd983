"""Registered conditions: without effect when new, absent or dropped; saved, loaded and refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter_config, save_adapter
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.npy_file import read_npy
from fantasytalking.condition_registry import register_condition, registered_condition
from fantasytalking.condition_specs import Injection
from fantasytalking.conditions import Conditions, RegisteredValue, flatten_conditions, unflatten_conditions
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of, check_transformer_folder, load_from_wan
from fantasytalking.training.losses import drop_conditions
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DropoutConfig
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import PORTRAIT, save_base, tiny_conditions, tiny_latents, tiny_transformer

FRAMES = 3


class Tokens(nn.Module):
    """(B, 2, dim) -> (B, 2, width)."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.layer = nn.Linear(sizes["dim"], sizes["width"])

    def forward(self, value: Tensor) -> Tensor:
        return self.layer(value)


MOOD = register_condition(
    "mood",
    injection=Injection.timestep,
    axes=("dim",),
    sizes={"dim": 3, "width": 8},
    module=lambda sizes: nn.Linear(sizes["dim"], sizes["width"]),
)
SCENE = register_condition(
    "scene", injection=Injection.cross_attention, axes=("2", "dim"), sizes={"dim": 4, "width": 6}, module=Tokens
)
BOTH = {"mood": {"dim": 3}, "scene": {}}
VALUES = {"mood": torch.tensor([[0.5, -1.0, 2.0]]), "scene": torch.arange(8.0).view(1, 2, 4) / 8}


def with_conditions(trained: bool = True, conditions: dict[str, Any] | None = None) -> FantasyTalkingTransformer3DModel:
    model = tiny_transformer(conditions=BOTH if conditions is None else conditions)
    if trained:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.startswith("mood_condition.output") or name.endswith("scene_v_proj.weight"):
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def given(*names: str, scale: float = 1.0, batch: int = 1) -> Conditions:
    values = {name: RegisteredValue(VALUES[name], torch.full((batch,), scale)) for name in names}
    return tiny_conditions(batch=1, frames=FRAMES)._replace(registered=values or None)


@torch.no_grad()
def predict(model: FantasyTalkingTransformer3DModel, conditions: Conditions, cache: Any = None) -> Tensor:
    latents, timestep = tiny_latents(batch=1, frames=FRAMES)
    return model(latents, timestep, conditions, cache=cache).sample


def test_a_fresh_condition_equals_the_base_bit_for_bit(tmp_path: Path):
    folder = save_base(tmp_path / "transformer")
    fresh = load_from_wan(folder, PORTRAIT | {"conditions": BOTH})
    base = WanTransformer3DModel.from_pretrained(folder)
    conditions = given("mood", "scene")._replace(prompt_embeds=torch.randn(1, 512, 20))
    latents, timestep = tiny_latents(batch=1, frames=FRAMES)
    inputs = torch.cat([latents, conditions.image_latents], dim=1)
    with torch.no_grad():
        expected = base(inputs, timestep, conditions.prompt_embeds, conditions.image_embeds).sample
    assert torch.equal(predict(fresh, conditions), expected)
    assert not any(parameter.is_meta for parameter in fresh.parameters())
    trained, plain = with_conditions(), tiny_transformer()
    plain.load_state_dict({k: v for k, v in trained.state_dict().items() if adapter_module_of(k) not in BOTH})
    assert torch.equal(predict(trained, given()), predict(plain, given()))


@pytest.mark.parametrize("name", VALUES)
def test_a_condition_acts_by_its_value_and_scale(name: str):
    model = with_conditions()
    absent, whole = predict(model, given()), predict(model, given(name))
    assert not torch.allclose(absent, whole, atol=1e-3)
    assert torch.equal(predict(model, given(name, scale=0.0)), absent)
    half = predict(model, given(name, scale=0.5))
    assert not torch.allclose(half, whole, atol=1e-4) and not torch.allclose(half, absent, atol=1e-4)
    cache = ConditionKVCache()
    for _ in range(2):
        assert torch.equal(predict(model, given(name), cache), whole)


def test_guidance_branches_that_share_their_latents_agree_with_single_calls():
    model, branches = with_conditions(), given("mood", "scene", batch=2)
    scales = {"mood": torch.tensor([1.0, 0.0]), "scene": torch.tensor([0.0, 1.0])}
    assert branches.registered is not None
    together = branches._replace(
        registered={name: branches.registered[name]._replace(scale=scale) for name, scale in scales.items()}
    )
    both = predict(model, together)
    torch.testing.assert_close(both[:1], predict(model, given("mood")), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:], predict(model, given("scene")), rtol=0, atol=1e-5)


def test_models_and_adapters_keep_their_conditions(tmp_path: Path):
    source = with_conditions()
    source.save_pretrained(tmp_path / "model")
    check_transformer_folder(tmp_path / "model")
    again = FantasyTalkingTransformer3DModel.from_pretrained(tmp_path / "model")
    expected = predict(source, given("mood", "scene"))
    torch.testing.assert_close(predict(again, given("mood", "scene")), expected, rtol=0, atol=1e-5)

    save_adapter(source, tmp_path / "adapter", AdapterConfig(["mood", "scene"], "seconds", conditions=BOTH))
    added = tiny_transformer()
    load_adapter(added, tmp_path / "adapter")
    assert added.config.conditions == {"mood": {"dim": 3, "width": 8}, "scene": {"dim": 4, "width": 6}}
    theirs = {name for name in source.state_dict() if adapter_module_of(name) in BOTH}
    assert all(torch.equal(added.state_dict()[name], source.state_dict()[name]) for name in theirs)
    with raises_input_error(ErrorCode.shape_mismatch, "conditions.mood"):
        load_adapter(with_conditions(conditions={"mood": {"dim": 5}}), tmp_path / "adapter")


def test_names_and_sizes_that_nobody_registered_are_refused(tmp_path: Path):
    with raises_input_error(ErrorCode.invalid_choice, "conditions", "tone"):
        tiny_transformer(conditions={"tone": {}})
    with raises_input_error(ErrorCode.unknown_key, "conditions.mood"):
        tiny_transformer(conditions={"mood": {"heads": 2}})
    with raises_input_error(ErrorCode.out_of_range, "conditions.mood.dim", 0):
        tiny_transformer(conditions={"mood": {"dim": 0}})
    for name in ("mood", "audio"):
        with raises_input_error(ErrorCode.conflict, "name", name):
            register_condition(name, injection=Injection.timestep, axes=(), sizes={"width": 1}, module=Tokens)
    save_adapter(with_conditions(), tmp_path / "adapter", AdapterConfig(["mood"], "seconds", conditions={"mood": {}}))
    path = tmp_path / "adapter" / "config.json"
    path.write_text(path.read_text().replace('"mood": {}', '"tone": {}'))
    with raises_input_error(ErrorCode.invalid_choice, "conditions", "tone"):
        read_adapter_config(tmp_path / "adapter")


@pytest.mark.parametrize(
    "conditions", [None, [], "mood", {"mood": 3}, {"mood": {"dim": "3"}}, {"mood": {}, "scene": {}}]
)
def test_an_adapter_with_malformed_conditions_is_refused(tmp_path: Path, conditions: object):
    save_adapter(with_conditions(), tmp_path / "adapter", AdapterConfig(["mood"], "seconds", conditions={"mood": {}}))
    path = tmp_path / "adapter" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"conditions": conditions}))
    with pytest.raises(InputError, match="conditions"):
        read_adapter_config(tmp_path / "adapter")


def test_values_that_do_not_fit_are_refused(tmp_path: Path):
    model = with_conditions(conditions={"mood": {}})
    with raises_input_error(ErrorCode.not_trained, "scene"):
        predict(model, given("scene"))
    wide = given("mood")._replace(registered={"mood": RegisteredValue(torch.ones(1, 4), torch.ones(1))})
    with raises_input_error(ErrorCode.shape_mismatch, "registered.mood.value", (1, 4)):
        predict(model, wide)
    with raises_input_error(ErrorCode.shape_mismatch, "mood", (2, 3)):
        MOOD.check(np.zeros((2, 3)), MOOD.sizes, "a")
    with raises_input_error(ErrorCode.malformed_file, "mood"):
        MOOD.check(np.full(3, np.nan), MOOD.sizes, "a")
    assert registered_condition("mood", "test") is MOOD


@pytest.mark.parametrize("damage", ["pickle", "text", "short", "huge", "header", "words"])
def test_a_hostile_array_is_refused(tmp_path: Path, damage: str):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(300))
    if damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "text":
        path.write_text("1, 2, 3")
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "huge":
        path.write_bytes(path.read_bytes().replace(b"(300,), }   ", b"(300000,), }"))
    elif damage == "header":
        path.write_bytes(path.read_bytes().replace(b"(300,)", b"(300, "))
    else:
        np.save(path, np.array(["a", "b"]))
    with raises_input_error(ErrorCode.malformed_file, "path", str(path)):
        read_npy(path)


def test_numbers_of_an_array_are_read(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    values = read_npy(tmp_path / "a.npy")
    assert values.dtype == np.float32 and values.tolist() == [[0, 1, 2], [3, 4, 5]]
    with raises_input_error(ErrorCode.out_of_range, "path"):
        read_npy(tmp_path / "a.npy", max_bytes=10)


def test_dropout_is_by_name_and_leaves_all_other_numbers_alone():
    plain, count = step_randomness(3, 7, range(2000), (1, 1, 1, 1)), 2000
    named = step_randomness(3, 7, range(2000), (1, 1, 1, 1), ["mood", "scene"])
    for name, value in plain._asdict().items():
        if name != "dropout_uniform":
            assert torch.equal(value, getattr(named, name))
    assert all(torch.equal(value, named.dropout_uniform[name]) for name, value in plain.dropout_uniform.items())
    alone = step_randomness(3, 7, range(2000), (1, 1, 1, 1), ["scene"]).dropout_uniform["scene"]
    assert torch.equal(alone, named.dropout_uniform["scene"]), "whatever else is registered"
    conditions = given("mood", "scene", batch=count)
    dropped = drop_conditions(
        conditions, named.dropout_uniform, DropoutConfig(), {"mood": 0.3, "scene": 0.0}
    ).registered
    assert dropped is not None
    assert (dropped["mood"].scale == 0).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert (dropped["scene"].scale == 1).all()


def test_named_tensors_contain_registered_conditions():
    conditions = given("mood", "scene")
    again = unflatten_conditions(flatten_conditions(conditions))
    assert again.registered is not None and conditions.registered is not None
    for name, value in conditions.registered.items():
        assert again.registered[name].value is value.value and again.registered[name].scale is value.scale

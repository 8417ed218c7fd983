"""LoRA files of others: spellings, changes of modulations, and numbers that must not be fused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.lora_fusion import fuse_lora_file
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_transformer

FLAT_LAYERS = {
    "blocks_1_self_attn_q": "blocks.1.attn1.to_q",
    "blocks_0_self_attn_o": "blocks.0.attn1.to_out.0",
    "blocks_0_cross_attn_k_img": "blocks.0.attn2.add_k_proj",
    "blocks_1_ffn_2": "blocks.1.ffn.net.2",
    "time_projection_1": "condition_embedder.time_proj",
    "blocks_0_attn1_to_v": "blocks.0.attn1.to_v",
}


@pytest.fixture
def model() -> FantasyTalkingTransformer3DModel:
    return tiny_transformer()


def fuse(model: FantasyTalkingTransformer3DModel, tensors: dict[str, Tensor], folder: Path, scale: float = 1.0) -> int:
    save_file(tensors, folder / "lora.safetensors")
    return fuse_lora_file(model, folder / "lora.safetensors", scale)


def state_copy(model: FantasyTalkingTransformer3DModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet__"])
@torch.no_grad()
def test_names_with_underscores_are_those_of_musubi_and_videox(model, tmp_path, prefix):
    before, tensors, expected = state_copy(model), {}, {}
    for number, (flat, layer) in enumerate(FLAT_LAYERS.items()):
        out, width = before[f"{layer}.weight"].shape
        torch.manual_seed(number)
        down, up = torch.randn(2, width), torch.randn(out, 2)
        tensors[f"{prefix}{flat}.lora_down.weight"], tensors[f"{prefix}{flat}.lora_up.weight"] = down, up
        tensors[f"{prefix}{flat}.alpha"] = torch.tensor(4)  # some are integers
        expected[f"{layer}.weight"] = before[f"{layer}.weight"] + 2 * (up @ down)
    assert fuse(model, tensors, tmp_path) == len(FLAT_LAYERS)
    after = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value)
    assert {name for name in after if not torch.equal(after[name], before[name])} == expected.keys()


@torch.no_grad()
def test_changes_of_modulations_are_fused(model, tmp_path):
    before = state_copy(model)
    changes = {
        "diffusion_model.blocks.1.diff_m": ("blocks.1.scale_shift_table", torch.randn(1, 6, 48)),
        "diffusion_model.head.diff_m": ("scale_shift_table", torch.randn(1, 2, 48)),
        "diffusion_model.blocks.0.norm3.diff": ("blocks.0.norm2.weight", torch.randn(48)),
    }
    assert fuse(model, {name: value for name, (_, value) in changes.items()}, tmp_path, 0.5) == len(changes)
    after = model.state_dict()
    for name, change in changes.values():
        torch.testing.assert_close(after[name], before[name] + 0.5 * change)
    assert sum(not torch.equal(after[name], before[name]) for name in after) == len(changes)


LAYER = "blocks.0.self_attn.q"
PAIR = {f"{LAYER}.lora_down.weight": torch.ones(2, 48), f"{LAYER}.lora_up.weight": torch.ones(48, 2)}
REFUSED = {
    "nan": ({f"{LAYER}.lora_up.weight": torch.full((48, 2), float("nan"))}, f"{LAYER}.lora_up.weight"),
    "infinite": ({f"{LAYER}.lora_down.weight": torch.full((2, 48), float("inf"))}, f"{LAYER}.lora_down.weight"),
    "infinite alpha": ({f"{LAYER}.alpha": torch.tensor(float("inf"))}, f"{LAYER}.alpha"),
    "nan in a bias": ({f"{LAYER}.diff_b": torch.full((48,), float("nan"))}, f"{LAYER}.diff_b"),
    "two spellings": (
        {"lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.ones(48, 2)},
        "lora_unet_blocks_0_self_attn_q.lora_up.weight",
    ),
    "magnitude of another width": ({f"{LAYER}.dora_scale": torch.ones(47)}, "blocks.0.attn1.to_q"),
    "magnitude without a pair": ({"blocks.1.self_attn.q.dora_scale": torch.ones(48)}, "blocks.1.attn1.to_q"),
    "unknown block": ({"lora_unet_blocks_9_self_attn_q.alpha": torch.ones(())}, "blocks_9_self_attn_q"),
    "modulation of another width": ({"blocks.0.diff_m": torch.ones(1, 6, 4)}, "blocks.0.scale_shift_table"),
    "rank 0": (
        {f"{LAYER}.lora_down.weight": torch.ones(0, 48), f"{LAYER}.lora_up.weight": torch.ones(48, 0)},
        "blocks.0.attn1.to_q",
    ),
    "too large when fused": (
        {name: torch.full_like(value, 3e38) for name, value in PAIR.items()},
        "blocks.0.attn1.to_q.weight",
    ),
}
WRONG_SHAPES = ("magnitude of another width", "unknown block", "modulation of another width", "rank 0")


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_what_must_not_be_fused_leaves_the_model_as_it_was(model, tmp_path, case):
    tensors, field = REFUSED[case]
    before = state_copy(model)
    with raises_input_error(ErrorCode.shape_mismatch if case in WRONG_SHAPES else ErrorCode.malformed_file, field):
        fuse(model, {**PAIR, **tensors}, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "method"),
    [("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("oft_blocks", "OFT")],
)
def test_other_methods_are_named(model, tmp_path, name, method):
    with raises_input_error(ErrorCode.unsupported, f"{LAYER}.{name}") as error:
        fuse(model, {**PAIR, f"{LAYER}.{name}": torch.ones(1)}, tmp_path)
    assert method in str(error.value)


PREFIXES = ["", "diffusion_model.", "model.diffusion_model.", "pipe.dit.", "transformer.", "base_model.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@torch.no_grad()
def test_prefixes_of_other_programs(model, tmp_path, prefix):
    before = model.blocks[0].attn1.to_q.weight.clone()
    fuse(model, {prefix + name: value for name, value in PAIR.items()}, tmp_path)
    torch.testing.assert_close(model.blocks[0].attn1.to_q.weight, before + 2)


@pytest.mark.parametrize("use_rslora", [None, False, True])
@pytest.mark.parametrize("place", ["beside", "metadata"])
@torch.no_grad()
def test_the_scale_is_that_of_pefts_configuration(model, tmp_path, caplog, use_rslora, place):
    """Of rank 4: alpha 8 is the factor 2, with rsLoRA 4, and 1 is assumed where nothing states it."""
    down, up = torch.randn(4, 48), torch.randn(48, 4)
    name = "base_model.model.blocks.0.attn1.to_q"
    metadata = None
    if use_rslora is not None:
        settings = {"r": 4, "lora_alpha": 8, "use_rslora": use_rslora}
        if place == "beside":
            (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        else:
            named = {f"transformer.{key}": value for key, value in settings.items()}
            metadata = {"lora_adapter_metadata": json.dumps(named)}
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "lora.safetensors", metadata)
    before = model.blocks[0].attn1.to_q.weight.clone()
    fuse_lora_file(model, tmp_path / "lora.safetensors")
    factor = {None: 1, False: 2, True: 4}[use_rslora]
    torch.testing.assert_close(model.blocks[0].attn1.to_q.weight, before + factor * (up @ down))
    assert ("states no scale" in caplog.text) is (use_rslora is None)


@torch.no_grad()
def test_an_alpha_of_one_layer(model, tmp_path):
    settings = {"lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    before = model.blocks[0].attn1.to_q.weight.clone()
    fuse(model, PAIR, tmp_path)
    torch.testing.assert_close(model.blocks[0].attn1.to_q.weight, before + 3 * 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": "8"},
        {"lora_alpha": None},
        {"alpha_pattern": {"(a+)+": 1}},
        {"alpha_pattern": [1]},
        {"alpha_pattern": {"blocks.1.attn1.to_k": "1"}},
    ],
)
def test_a_scale_that_is_no_number_is_refused(model, tmp_path, settings):
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    before = state_copy(model)
    second = {name.replace("0.self_attn.q", "1.self_attn.k"): value.clone() for name, value in PAIR.items()}
    with pytest.raises(InputError):
        fuse(model, PAIR | second, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("ending", "shape", "axis"),
    [
        ("dora_scale", (48, 1), 1),
        ("dora_scale", (1, 64), 0),
        ("lora_magnitude_vector", (48,), 1),
        ("lora_magnitude_vector.default.weight", (48,), 1),
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.5])
@torch.no_grad()
def test_dora_gives_rows_or_columns_their_magnitude(model, tmp_path, ending, shape, axis, strength):
    before = model.blocks[0].ffn.net[2].weight.clone()
    down, up, magnitude = torch.randn(2, 64), torch.randn(48, 2), torch.rand(shape) + 0.5
    layer = "blocks.0.ffn.2"
    tensors = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(1.0)}
    fuse(model, {**tensors, f"{layer}.{ending}": magnitude}, tmp_path, strength)
    direction = before + 0.5 * up @ down
    full = magnitude.reshape(-1, 1) if axis else magnitude.reshape(1, -1)
    expected = full * direction / direction.norm(dim=axis, keepdim=True)
    torch.testing.assert_close(model.blocks[0].ffn.net[2].weight, before + strength * (expected - before))
    if strength == 1:
        torch.testing.assert_close(model.blocks[0].ffn.net[2].weight.norm(dim=axis), magnitude.flatten())


@torch.no_grad()
def test_dora_is_that_of_peft(model, tmp_path):
    """PEFT's own layer, merged, is the reference."""
    from peft import LoraConfig, get_peft_model

    layer = torch.nn.Sequential(torch.nn.Linear(64, 48, bias=False))
    layer[0].weight.copy_(model.blocks[0].ffn.net[2].weight)
    tuned = get_peft_model(layer, LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.rand_like(parameter) + 0.1)
    named = {name: value for name, value in tuned.state_dict().items() if "lora_" in name}
    stored = {
        name.replace("base_model.model.0.", "base_model.model.blocks.0.ffn.net.2."): value.clone()
        for name, value in named.items()
    }
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 3, "use_dora": true}')
    fuse(model, stored, tmp_path)
    torch.testing.assert_close(model.blocks[0].ffn.net[2].weight, tuned.merge_and_unload()[0].weight)


@torch.no_grad()
def test_a_bias_without_its_weight_and_a_pair_of_the_convolution(model, tmp_path):
    """AccVid changes the bias of time_projection alone; extracted LoRAs have a pair of the patch embedding."""
    before = state_copy(model)
    down, up = torch.randn(3, 36, 1, 2, 2), torch.randn(48, 3, 1, 1, 1)
    tensors = {
        "diffusion_model.time_projection.1.diff_b": torch.ones(6 * 48),
        "diffusion_model.patch_embedding.lora_down.weight": down,
        "diffusion_model.patch_embedding.lora_up.weight": up,
    }
    assert fuse(model, tensors, tmp_path) == 2
    after = model.state_dict()
    expected = before["patch_embedding.weight"] + torch.einsum("or,rcthw->octhw", up[:, :, 0, 0, 0], down)
    torch.testing.assert_close(after["patch_embedding.weight"], expected)
    torch.testing.assert_close(
        after["condition_embedder.time_proj.bias"], before["condition_embedder.time_proj.bias"] + 1
    )
    assert sum(not torch.equal(after[name], before[name]) for name in after) == 2

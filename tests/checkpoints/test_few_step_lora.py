"""LoRA files of others: spellings, changes of modulations, and numbers that must not be fused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.few_step_lora import fuse_few_step_lora
from fantasytalking.common.errors import ErrorCode
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
    return fuse_few_step_lora(model, folder / "lora.safetensors", scale)


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
WRONG_SHAPES = ("unknown block", "modulation of another width", "rank 0")


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
    [("dora_scale", "DoRA"), ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("lora_magnitude_vector.weight", "DoRA")],
)
def test_other_methods_are_named(model, tmp_path, name, method):
    with raises_input_error(ErrorCode.unsupported, f"{LAYER}.{name}") as error:
        fuse(model, {**PAIR, f"{LAYER}.{name}": torch.ones(1)}, tmp_path)
    assert method in str(error.value)

"""Parameters that train, by name."""

from fnmatch import fnmatchcase

import pytest
import torch

from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.parameter_groups import set_trainable, trainable_table
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_transformer
from tests.training.conftest import Configure

ADAPTERS = (
    "audio_projector.*",
    "face_resampler.*",
    "motion_embedder.*",
    "blocks.*.attn2.audio_k_proj.weight",
    "blocks.*.attn2.audio_v_proj.weight",
    "blocks.*.attn2.face_k_proj.weight",
    "blocks.*.attn2.face_v_proj.weight",
)


def training(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_adapter_modules_only(configure: Configure):
    model, _ = build_model(configure(stage__alignment="frame"), torch.float32)
    expected = {name for name, _ in model.named_parameters() if any(fnmatchcase(name, p) for p in ADAPTERS)}
    assert training(model) == expected
    assert not any(adapter_module_of(name) is None for name in expected)


def test_clip_alignment_freezes_the_positions(configure: Configure):
    """Positions would have no gradient; the adapter saves them unchanged."""
    clip, frame = (build_model(configure(stage__alignment=kind), torch.float32) for kind in ("clip", "frame"))
    assert training(frame[0]) - training(clip[0]) == {"audio_projector.positions"}
    assert set(frame[1].trained_names) - set(clip[1].trained_names) == {"audio_projector.positions"}
    assert clip[1].adapter_config(configure(), 1)[0].modules == ["audio", "face", "motion"]


def test_modules_that_do_not_train_are_not_saved(configure: Configure):
    model, origin = build_model(configure(stage__trainable="[audio,motion]"), torch.float32)
    assert {adapter_module_of(name) for name in training(model)} == {"audio", "motion"}
    assert origin.adapter_config(configure(), 1)[0].modules == ["audio", "motion"]


def test_base_is_everything_but_the_adapter_modules(configure: Configure):
    model, _ = build_model(configure(stage__trainable="[base,audio]", stage__alignment="frame"), torch.float32)
    named = {adapter_module_of(name) for name in training(model)}
    assert named == {None, "audio"}
    assert all(
        adapter_module_of(name) in {"face", "motion"}
        for name, _ in model.named_parameters()
        if name not in training(model)
    )


def test_lora_and_adapters(configure: Configure):
    config = configure(stage__lora__rank=4, stage__lora__target_modules="[attn1.to_q,attn2.to_out.0]")
    model, origin = build_model(config, torch.float32)
    extra = {name for name in training(model) if adapter_module_of(name) is None}
    assert extra == {
        f"blocks.{block}.{layer}.lora_{half}.default.weight"
        for block in range(2)
        for layer in ("attn1.to_q", "attn2.to_out.0")
        for half in "AB"
    }
    assert {adapter_module_of(name) for name in training(model) - extra} == {"audio", "face", "motion"}
    assert origin.adapter_config(config, 1)[0].lora == {
        "rank": 4,
        "alpha": 64.0,
        "targets": ["attn1.to_q", "attn2.to_out.0"],
    }


def test_everything(configure: Configure):
    config = configure(stage__trainable="['*']", stage__alignment="frame")
    model, origin = build_model(config, torch.float32)
    assert training(model) == {name for name, _ in model.named_parameters()}
    described, base_names = origin.adapter_config(config, 1)
    assert described.base_tensors == len(base_names) == sum(adapter_module_of(n) is None for n in training(model))


def test_in_bf16_only_the_frozen_base_is_bfloat16(configure: Configure):
    model, _ = build_model(configure(mixed_precision="bf16"), torch.bfloat16)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
    frozen = dict(model.named_parameters())["blocks.0.attn1.to_q.weight"]
    assert frozen.dtype == torch.bfloat16


@pytest.mark.parametrize("trainable", ["[audio,face,motion]", "['*']"])
def test_an_unmaterialized_model_has_the_same_parameters(configure: Configure, trainable: str):
    """Broadcasting from the first process requires equal names, shapes and types."""
    config = configure(
        mixed_precision="bf16", stage__trainable=trainable, stage__alignment="frame", stage__lora__rank=4
    )
    first, sent = (build_model(config, torch.bfloat16, values) for values in (True, False))
    described = [
        [(name, value.shape, value.dtype, value.requires_grad) for name, value in model.named_parameters()]
        for model, _ in (first, sent)
    ]
    assert described[0] == described[1]
    assert first[1].adapter_config(config, 1) == sent[1].adapter_config(config, 1)


def test_a_pattern_that_matches_nothing_raises():
    with raises_input_error(ErrorCode.unknown_key, "stage.trainable", "blocks.*.attn3.*"):
        set_trainable(tiny_transformer(), ["audio", "blocks.*.attn3.*"])


def test_the_table_counts_every_part():
    model = tiny_transformer()
    add_lora(model, LoraSpec(2, 4.0, ("attn1.to_q",)), torch.float32)
    set_trainable(model, ["face"])
    table = {line.split()[0]: line.split()[1:] for line in trainable_table(model).splitlines()}
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = "lora" if ".lora_" in name else adapter_module_of(name) or "base"
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    assert table["lora"] == [f"{3 * 2 * 2 * 48:,}"] * 2
    assert table["face"] == [f"{sizes['face']:,}"] * 2
    assert table["base"] == [f"{sizes['base']:,}", "0"]
    assert table["total"] == [f"{sum(sizes.values()):,}", f"{sizes['face'] + sizes['lora']:,}"]

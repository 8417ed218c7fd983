"""Adapters: exact keys, bitwise round trips of released weights, hostile files rejected."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter, save_adapter
from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.checkpoints.released_audio import (
    from_released_audio,
    read_released_audio,
    to_released_audio,
    write_released_audio,
)
from fantasytalking.common.errors import ErrorCode
from fantasytalking.models.wan_loading import adapter_module_of
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_transformer

EVERYTHING = ["audio", "face", "motion"]


def released_weights(blocks: int = 3, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """The released format for the tiny transformer, flat."""
    torch.manual_seed(3)
    tensors = {
        "proj_model.proj.weight": torch.randn(40, 12),
        "proj_model.norm.weight": torch.randn(40),
        "proj_model.norm.bias": torch.randn(40),
    }
    for block in range(blocks):
        for kind in "kv":
            tensors[f"audio_processor.blocks.{block}.cross_attn.processor.{kind}_proj.weight"] = torch.randn(48, 40)
    return {name: value.to(dtype) for name, value in tensors.items()}


def two_parts(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The released .ckpt's nesting."""
    parts: dict[str, dict[str, torch.Tensor]] = {"proj_model": {}, "audio_processor": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return parts


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def test_an_adapter_loads_exactly_and_changes_nothing_else(tmp_path):
    source, target = tiny_transformer(seed=0), tiny_transformer(seed=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    save_adapter(source, tmp_path / "adapter", AdapterConfig(EVERYTHING, "seconds", base="tiny"))
    assert load_adapter(target, tmp_path / "adapter").base == "tiny"
    for name, value in target.state_dict().items():
        expected = source.state_dict()[name] if adapter_module_of(name) else before[name]
        assert torch.equal(value, expected), name


def test_an_adapter_of_one_module_leaves_the_others_unchanged(tmp_path):
    source, target = tiny_transformer(seed=0), tiny_transformer(seed=5)
    save_adapter(source, tmp_path / "adapter", AdapterConfig(["face"], "seconds"))
    assert {adapter_module_of(name) for name in load_file(tmp_path / "adapter" / "adapter.safetensors")} == {"face"}
    audio = target.audio_projector.proj.weight.clone()
    load_adapter(target, tmp_path / "adapter")
    assert torch.equal(target.audio_projector.proj.weight, audio)
    assert torch.equal(target.face_resampler.queries, source.face_resampler.queries)


DAMAGE = {
    "missing": (ErrorCode.shape_mismatch, "blocks.1.attn2.audio_k_proj.weight"),
    "extra": (ErrorCode.shape_mismatch, "blocks.9.attn2.audio_k_proj.weight"),
    "shape": (ErrorCode.shape_mismatch, "blocks.1.attn2.audio_k_proj.weight"),
    "dtype": (ErrorCode.invalid_type, "blocks.1.attn2.audio_k_proj.weight"),
    "nan": (ErrorCode.malformed_file, "blocks.1.attn2.audio_k_proj.weight"),
}


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_adapter_changes_nothing(tmp_path, change):
    save_adapter(tiny_transformer(seed=0), tmp_path / "adapter", AdapterConfig(EVERYTHING, "seconds"))
    path = tmp_path / "adapter" / "adapter.safetensors"
    tensors = load_file(path)
    name = "blocks.1.attn2.audio_k_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["blocks.9.attn2.audio_k_proj.weight"] = torch.zeros(48, 40)
    elif change == "shape":
        tensors[name] = torch.zeros(48, 41)
    elif change == "dtype":
        tensors[name] = torch.zeros(48, 40, dtype=torch.int32)
    else:
        tensors[name][0, 0] = float("nan")
    save_file(tensors, path)
    target = tiny_transformer(seed=5)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with raises_input_error(*DAMAGE[change]) as error:
        load_adapter(target, tmp_path / "adapter")
    assert str(tmp_path / "adapter") in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("modules", ["voice"], ErrorCode.invalid_choice),
        ("modules", "audio", ErrorCode.invalid_choice),
        ("audio_window", "frames", ErrorCode.invalid_choice),
        ("window_seconds", -1, ErrorCode.out_of_range),
        ("format", 2, ErrorCode.unsupported),
        ("modles", ["audio"], ErrorCode.unknown_key),
    ],
)
def test_an_invalid_adapter_configuration_is_rejected(tmp_path, name, value, code):
    save_adapter(tiny_transformer(), tmp_path / "adapter", AdapterConfig(EVERYTHING, "seconds"))
    path = tmp_path / "adapter" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with raises_input_error(code, name, None if code is ErrorCode.unknown_key else value):
        read_adapter(tmp_path / "adapter")


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").write_bytes(b"x")
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path / "photos")):
        save_adapter(tiny_transformer(), tmp_path / "photos", AdapterConfig(EVERYTHING, "seconds"))
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "family.jpg"]


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_released_weights_round_trip_bitwise(tmp_path, suffix, dtype):
    tensors = released_weights(dtype=dtype)
    source, back = tmp_path / f"released{suffix}", tmp_path / f"back{suffix}"
    write_released_audio(tensors, source)
    convert_checkpoint(source, tmp_path / "adapter")
    config, ours = read_adapter(tmp_path / "adapter")
    assert config.modules == ["audio"]
    assert config.audio_window == "official"
    assert set(ours) == {name for name in tiny_transformer().state_dict() if adapter_module_of(name) == "audio"}
    convert_checkpoint(tmp_path / "adapter", back)
    assert same(read_released_audio(back), tensors)
    assert same(to_released_audio(from_released_audio(tensors)), tensors)
    if suffix != ".safetensors":
        loaded = torch.load(back, weights_only=True)
        assert set(loaded) == {"proj_model", "audio_processor"}
        assert same(loaded["audio_processor"], two_parts(tensors)["audio_processor"])


def test_released_weights_change_container(tmp_path):
    write_released_audio(released_weights(), tmp_path / "released.ckpt")
    convert_checkpoint(tmp_path / "released.ckpt", tmp_path / "released.safetensors")
    assert same(load_file(tmp_path / "released.safetensors"), released_weights())


def test_face_and_motion_cannot_be_written_in_the_released_format(tmp_path):
    save_adapter(tiny_transformer(), tmp_path / "adapter", AdapterConfig(EVERYTHING, "seconds"))
    with raises_input_error(ErrorCode.unsupported) as error:
        convert_checkpoint(tmp_path / "adapter", tmp_path / "out.ckpt")
    assert (error.value.field or "").startswith(("face_", "motion_", "blocks.")), error.value
    assert not (tmp_path / "out.ckpt").exists()


class Planted:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def hostile(kind: str, path: Path) -> None:
    tensors = released_weights()
    if kind == "code":
        path.write_bytes(pickle.dumps({"proj_model": Planted(), "audio_processor": {}}))
    elif kind == "torch code":
        torch.save({"proj_model": Planted(), "audio_processor": {}}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "truncated":
        torch.save(two_parts(tensors), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "other parts":
        torch.save({"state_dict": tensors}, path)
    elif kind == "list":
        torch.save(list(tensors.values()), path)
    elif kind == "not tensors":
        torch.save({"proj_model": {"proj.weight": 3}, "audio_processor": {}}, path)
    elif kind == "missing block":
        del tensors["audio_processor.blocks.1.cross_attn.processor.v_proj.weight"]
        torch.save(two_parts(tensors), path)
    elif kind == "shape":
        tensors["proj_model.norm.bias"] = torch.zeros(41)
        torch.save(two_parts(tensors), path)
    elif kind == "integers":
        torch.save(two_parts({name: value.int() for name, value in tensors.items()}), path)


KINDS = dict.fromkeys(
    ["code", "torch code", "empty", "text", "truncated", "other parts", "list", "not tensors"],
    ErrorCode.malformed_file,
) | {
    "missing block": ErrorCode.shape_mismatch,
    "shape": ErrorCode.shape_mismatch,
    "integers": ErrorCode.invalid_type,
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_and_broken_checkpoints_are_rejected_in_one_line(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile(kind, tmp_path / "released.ckpt")
    with raises_input_error(KINDS[kind]) as error:
        convert_checkpoint(tmp_path / "released.ckpt", tmp_path / "adapter")
    assert "released.ckpt" in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["released.ckpt"], "no code ran, nothing half-written"

"""The released portrait checkpoint: its forward, and lossless conversion of both forms."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fantasytalking.checkpoints.convert import convert_checkpoint, reference_forward
from fantasytalking.checkpoints.released_portrait import RELEASED_PORTRAIT_PARTS
from fantasytalking.common.errors import ErrorCode
from tests.checkpoints.test_convert import run_here
from tests.helpers.errors import raises_input_error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as handle:
        return load_file(path), dict(handle.metadata())


def adapter_of(golden: Path) -> dict[str, Tensor]:
    """The released adapter in a reference file; its resamplers have one head of the released width."""
    tensors = load_file(golden / "portrait_forward_single.safetensors")
    return {
        name: value
        for name, value in tensors.items()
        if name.startswith(tuple(f"{part}." for part in RELEASED_PORTRAIT_PARTS))
    }


def as_parts(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in RELEASED_PORTRAIT_PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return parts


OUTPUTS = {
    "single": {"prediction", "prediction_without_portrait", "prediction_padding_attended"},
    "two": {"prediction", "prediction_without_portrait"},
}


@pytest.mark.parametrize("people", OUTPUTS)
def test_our_forward_is_the_released_forward(golden, tmp_path, people, monkeypatch):
    reference = golden / f"portrait_forward_{people}.safetensors"
    assert run_here(monkeypatch, "--forward", reference, tmp_path / "ours.safetensors") == 0
    ours, expected = load_file(tmp_path / "ours.safetensors"), load_file(reference)
    assert set(ours) == OUTPUTS[people]
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[f"out.{name}"], rtol=0, atol=1e-5)
    assert not torch.allclose(ours["prediction"], ours["prediction_without_portrait"], atol=1e-2)


def test_three_people_are_driven_by_their_own_expressions(golden, tmp_path):
    """The released mask drives the wrong faces here; ours is checked against the same people in another order."""
    tensors, metadata = read(golden / "portrait_forward_two.safetensors")
    generator = torch.Generator().manual_seed(0)
    regions = torch.zeros(3, 48, 96, dtype=torch.uint8)
    for person in range(3):
        regions[person, :32, 32 * person : 32 * person + 16] = 1
    changes = {
        "in.latents": torch.randn(1, 16, 3, 6, 12, generator=generator),
        "in.image_condition": torch.randn(1, 20, 3, 6, 12, generator=generator),
        "in.expression_features": torch.randn(3, 9, 554, generator=generator),
        "in.face_regions": regions,
    }
    metadata |= {"num_frames": "9", "faces": "3"}
    predictions = []
    for order in ([0, 1, 2], [2, 0, 1]):
        turned = {name: changes[name][order] for name in ("in.expression_features", "in.face_regions")}
        save_file({**tensors, **changes, **turned}, tmp_path / "reference.safetensors", metadata=metadata)
        predictions.append(reference_forward(tmp_path / "reference.safetensors")["prediction"])
    torch.testing.assert_close(predictions[1], predictions[0], rtol=0, atol=1e-5)


def test_released_file_and_flat_port_round_trip_through_our_adapter(golden, tmp_path):
    released = {name: value.bfloat16() for name, value in adapter_of(golden).items()}
    port = {name.replace(".processor.", "."): value for name, value in released.items()}
    assert port.keys() != released.keys()
    torch.save(as_parts(released), tmp_path / "released.ckpt")
    save_file(port, tmp_path / "port.safetensors")
    convert_checkpoint(tmp_path / "released.ckpt", tmp_path / "adapter")
    convert_checkpoint(tmp_path / "port.safetensors", tmp_path / "adapter_of_port")
    ours = load_file(tmp_path / "adapter" / "adapter.safetensors")
    assert len(ours) == len(released)
    theirs = load_file(tmp_path / "adapter_of_port" / "adapter.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    convert_checkpoint(tmp_path / "adapter", tmp_path / "again.ckpt")
    convert_checkpoint(tmp_path / "released.ckpt", tmp_path / "again.safetensors")
    again = torch.load(tmp_path / "again.ckpt", weights_only=True)
    assert again.keys() == set(RELEASED_PORTRAIT_PARTS)
    for part, tensors in as_parts(released).items():
        assert again[part].keys() == tensors.keys()
        assert all(value.dtype == torch.bfloat16 and torch.equal(value, tensors[n]) for n, value in again[part].items())
    flat = load_file(tmp_path / "again.safetensors")
    assert flat.keys() == port.keys()
    assert all(torch.equal(value, port[name]) for name, value in flat.items())


def spoil(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    key = "ip_adapter.blocks.1.cross_attn.processor.ip_adapter_single_stream_k_proj.weight"
    if kind == "missing":
        del tensors["mouth_proj_model.layers.1.0.to_kv.weight"]
    elif kind == "extra":
        tensors["ip_adapter.blocks.0.norm.weight"] = torch.ones(3)
    elif kind == "shape":
        tensors[key] = tensors[key][:, :-1].contiguous()
    elif kind == "twice":
        tensors[key.replace(".processor", "")] = tensors[key].clone()
    elif kind == "not a number":
        tensors[key] = torch.full_like(tensors[key], torch.nan)
    elif kind == "no queries":
        del tensors["emo_proj_model.latents"]
    elif kind == "hole in the blocks":
        tensors = {name.replace("blocks.1.", "blocks.2."): value for name, value in tensors.items()}
    return tensors


KINDS = {
    "missing": ErrorCode.shape_mismatch,
    "extra": ErrorCode.malformed_file,
    "shape": ErrorCode.shape_mismatch,
    "twice": ErrorCode.malformed_file,
    "not a number": ErrorCode.malformed_file,
    "no queries": ErrorCode.shape_mismatch,
    "hole in the blocks": ErrorCode.shape_mismatch,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_invalid_checkpoint_is_rejected_in_one_line(golden, tmp_path, kind):
    save_file(spoil(adapter_of(golden), kind), tmp_path / "port.safetensors")
    with raises_input_error(KINDS[kind]) as error:
        convert_checkpoint(tmp_path / "port.safetensors", tmp_path / "adapter")
    assert error.value.field is not None and "\n" not in str(error.value)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("kind", ["frames", "heads", "scale", "resampler", "no features", "no regions"])
def test_an_invalid_reference_is_rejected_in_one_line(golden, tmp_path, kind, monkeypatch, capsys):
    tensors, metadata = read(golden / "portrait_forward_two.safetensors")
    metadata |= {
        "frames": {"num_frames": "13"},
        "heads": {"num_heads": "7"},
        "scale": {"portrait_scale": "loud"},
        "resampler": {"resampler": "dim_head=0"},
    }.get(kind, {})
    for name in {"no features": ["in.expression_features"], "no regions": ["in.face_regions"]}.get(kind, []):
        del tensors[name]
    save_file(tensors, tmp_path / "reference.safetensors", metadata=metadata)
    assert run_here(monkeypatch, "--forward", tmp_path / "reference.safetensors", tmp_path / "out.safetensors") == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert not (tmp_path / "out.safetensors").exists()

"""Released weights as others store them: names of ports, float8, and float8 with scales."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.checkpoints.released_audio import read_released_audio
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.tensor_io import check_finite, open_safetensors
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import original_names
from tests.helpers.tiny_transformer import PORTRAIT, save_base

BLOCK = "audio_processor.blocks.{}.cross_attn.processor.{}_proj.weight"


@pytest.fixture
def released() -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = {BLOCK.format(block, kind): torch.randn(16, 8) for block in range(2) for kind in "kv"}
    tensors |= {"proj_model.proj.weight": torch.randn(8, 6), "proj_model.norm.weight": torch.rand(8)}
    return tensors | {"proj_model.norm.bias": torch.randn(8)}


def convert(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors of the adapter that a file becomes."""
    save_file(tensors, folder / "source.safetensors")
    convert_checkpoint(folder / "source.safetensors", folder / "adapter")
    return load_file(folder / "adapter" / "adapter.safetensors")


@pytest.mark.parametrize("removed", ["", "audio_processor.", "processor.", "both"])
def test_ports_have_shorter_names_and_mixed_dtypes(released: dict[str, Tensor], tmp_path: Path, removed: str) -> None:
    def ported(name: str) -> str:
        short = name.removeprefix("audio_processor.") if removed in ("audio_processor.", "both") else name
        return short.replace(".processor.", ".") if removed in ("processor.", "both") else short

    stored = {ported(name): value if "proj_model" in name else value.half() for name, value in released.items()}
    found = convert(stored, tmp_path)
    assert len(found) == len(released)
    for block in range(2):
        for kind in "kv":
            value = found[f"blocks.{block}.attn2.audio_{kind}_proj.weight"]
            assert torch.equal(value, released[BLOCK.format(block, kind)].half())
    assert torch.equal(found["audio_projector.proj.weight"], released["proj_model.proj.weight"])


def test_one_tensor_in_two_spellings_is_refused(released: dict[str, Tensor], tmp_path: Path) -> None:
    twice = released | {"blocks.0.cross_attn.k_proj.weight": released[BLOCK.format(0, "k")].clone()}
    with raises_input_error(ErrorCode.malformed_file):
        convert(twice, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_float8_is_read_exactly(released: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    stored = {name: value.to(dtype) for name, value in released.items()}
    path = tmp_path / f"float8{suffix}"
    if suffix == ".ckpt":
        parts: dict[str, dict[str, Tensor]] = {"proj_model": {}, "audio_processor": {}}
        for name, value in stored.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        torch.save(parts, path)
    else:
        save_file(stored, path)
    for name, value in read_released_audio(path).items():
        assert value.dtype is torch.bfloat16 and torch.equal(value.float(), stored[name].float())


def scaled(tensors: dict[str, Tensor], ending: str, per_row: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Blocks in float8 with scales, and what they are by hand."""
    stored, expected = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}, dict(tensors)
    for name, value in tensors.items():
        if "cross_attn" not in name:
            stored[name] = value
            continue
        scale = (value.abs().amax(dim=1, keepdim=True) if per_row else value.abs().amax().reshape(1)) / 448
        stored[name] = (value / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix(".weight") + ending] = scale
        stored[name.removesuffix(".weight") + ".scale_input"] = torch.ones(())
        expected[name] = stored[name].float() * scale
    return stored, expected


@pytest.mark.parametrize("ending", [".scale_weight", ".weight_scale"])
@pytest.mark.parametrize("per_row", [False, True])
def test_scales_of_float8_are_applied(released: dict[str, Tensor], tmp_path: Path, ending: str, per_row: bool) -> None:
    stored, expected = scaled(released, ending, per_row)
    save_file(stored, tmp_path / "scaled.safetensors")
    found = read_released_audio(tmp_path / "scaled.safetensors")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_scale_counts_for_any_dtype(released: dict[str, Tensor], tmp_path: Path) -> None:
    name = BLOCK.format(1, "v")
    stored = {key: value.half() for key, value in released.items()}
    stored[name.removesuffix(".weight") + ".scale_weight"] = torch.tensor([0.37])
    save_file(stored, tmp_path / "scaled.safetensors")
    found = read_released_audio(tmp_path / "scaled.safetensors")[name]
    assert torch.equal(found, stored[name].float() * 0.37)


SPOILT_SCALES = {
    "no scale": (None, "k_proj.weight"),
    "nan": (torch.tensor([float("nan")]), "k_proj.scale_weight"),
    "zero": (torch.tensor([0.0]), "k_proj.scale_weight"),
    "blocks": (torch.ones(2, 2), "k_proj.scale_weight"),
}


@pytest.mark.parametrize("case", SPOILT_SCALES)
def test_scales_are_never_dropped_or_guessed(released: dict[str, Tensor], tmp_path: Path, case: str) -> None:
    value, named = SPOILT_SCALES[case]
    stored, _ = scaled(released, ".scale_weight", False)
    scale = BLOCK.format(0, "k").removesuffix(".weight") + ".scale_weight"
    stored.pop(scale)
    if value is not None:
        stored[scale] = value
    save_file(stored, tmp_path / "scaled.safetensors")
    with raises_input_error(ErrorCode.malformed_file) as error:
        read_released_audio(tmp_path / "scaled.safetensors")
    assert str(error.value.field).endswith(named)


def described(kind: str, **settings: object) -> Tensor:
    """ComfyUI's description of a layer."""
    return torch.tensor(list(json.dumps({"format": kind, **settings}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_comfyuis_descriptions_of_scaled_weights_are_read(
    released: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    name = BLOCK.format(0, "k")
    layer, kind = name.removesuffix(".weight"), "int8_tensorwise" if dtype is torch.int8 else "float8_e4m3fn"
    values = (released[name] * 20).to(dtype)
    stored = released | {name: values, f"{layer}.weight_scale": torch.tensor(0.05)}
    stored[f"{layer}.comfy_quant"] = described(kind, full_precision_matrix_mult=True)
    metadata = {"_quantization_metadata": json.dumps({"layers": {layer: {"format": kind}}})}
    save_file(stored, tmp_path / "described.safetensors", metadata)
    assert torch.equal(read_released_audio(tmp_path / "described.safetensors")[name], values.float() * 0.05)


@pytest.mark.parametrize(
    "description",
    [
        described("nvfp4"),
        described("int8_tensorwise", convrot=True),
        described("float8_e4m3fn", group=4),
        torch.ones(3),
    ],
)
@pytest.mark.parametrize("in_metadata", [False, True])
def test_other_formats_are_refused_by_their_description(
    released: dict[str, Tensor], tmp_path: Path, description: Tensor, in_metadata: bool
) -> None:
    layer, metadata = BLOCK.format(0, "k").removesuffix(".weight"), None
    stored = released | {f"{layer}.weight_scale": torch.tensor(0.05)}
    if in_metadata:
        values = bytes(description.to(torch.uint8).tolist()).decode()
        metadata = {"_quantization_metadata": f'{{"layers": {{"{layer}": {values}}}}}'}
    else:
        stored[f"{layer}.comfy_quant"] = description
    save_file(stored, tmp_path / "described.safetensors", metadata)
    with raises_input_error(ErrorCode.malformed_file):
        read_released_audio(tmp_path / "described.safetensors")


def test_a_described_layer_needs_its_scale(released: dict[str, Tensor], tmp_path: Path) -> None:
    layer = BLOCK.format(0, "k").removesuffix(".weight")
    save_file(released | {f"{layer}.comfy_quant": described("float8_e4m3fn")}, tmp_path / "described.safetensors")
    with raises_input_error(ErrorCode.malformed_file, f"{layer}.weight"):
        read_released_audio(tmp_path / "described.safetensors")


@pytest.mark.parametrize("name", ["x.scale_weight", "x.comfy_quant", "x.weight_scale_inv"])
def test_scales_without_weights_and_other_quantizations_are_refused(tmp_path: Path, name: str) -> None:
    save_file({name: torch.ones(1), "y.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with raises_input_error(ErrorCode.malformed_file):
        open_safetensors(tmp_path / "other.safetensors")


@pytest.mark.parametrize("with_scales", [False, True])
def test_a_float8_base_needs_no_dtype(tmp_path: Path, with_scales: bool) -> None:
    names = original_names(WanTransformer3DModel.from_pretrained(save_base(tmp_path / "base")))
    float8 = {key for key, value in names.items() if key.endswith(".weight") and value.ndim == 2 and "norm" not in key}
    stored = {key: value.to(torch.float8_e4m3fn) if key in float8 else value for key, value in names.items()}
    if with_scales:
        stored |= {f"{key.removesuffix('.weight')}.scale_weight": torch.tensor(0.5) for key in float8}
        stored["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    save_file(stored, tmp_path / "wan.safetensors", metadata={"num_heads": "2"})
    model = load_from_wan(tmp_path / "wan.safetensors", PORTRAIT)
    weight = model.blocks[0].attn1.to_q.weight
    by_hand = stored["blocks.0.self_attn.q.weight"].float() * (0.5 if with_scales else 1)
    assert torch.equal(weight.float(), by_hand)
    assert weight.dtype is (torch.float32 if with_scales else torch.bfloat16)
    assert model.blocks[0].attn1.to_q.bias.dtype is weight.dtype, "one dtype to compute in"


def test_float8_values_are_checked(tmp_path: Path) -> None:
    good = torch.ones(3).to(torch.float8_e4m3fn)
    check_finite({"x": good}, "file")
    with raises_input_error(ErrorCode.malformed_file, "x"):
        check_finite({"x": torch.tensor([float("nan")]).to(torch.float8_e4m3fn)}, "file")

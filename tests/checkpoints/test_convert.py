"""Reproduction of the released forward, and the conversion script as a user runs it."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fantasytalking.checkpoints.convert import convert_checkpoint, reference_forward
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.tensor_io import open_model_folder
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import SCRIPTS
from tests.helpers.repacked_files import original_names
from tests.helpers.tiny_transformer import BASE, PORTRAIT, save_base

SCRIPT = SCRIPTS / "convert_official.py"


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Runs the script in this process, which has imported everything, and returns the exit code."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as handle:
        return load_file(path), dict(handle.metadata())


@pytest.mark.parametrize("level", ["frame", "clip"])
def test_our_forward_is_the_released_forward(golden, tmp_path, level, monkeypatch):
    reference = golden / f"official_forward_{level}.safetensors"
    assert run_here(monkeypatch, "--forward", reference, tmp_path / "ours.safetensors") == 0
    ours, expected = load_file(tmp_path / "ours.safetensors"), load_file(reference)
    assert set(ours) == {"prediction", "prediction_without_audio", "audio_windows"}
    for name, value in ours.items():
        torch.testing.assert_close(value, expected[f"out.{name}"], rtol=0, atol=1e-5)
    assert not torch.allclose(ours["prediction"], ours["prediction_without_audio"], atol=1e-2)


def test_released_weights_through_the_adapter_give_the_released_forward(golden, tmp_path):
    """Uses the converter, load_from_wan on a single file with Wan's names, and load_adapter."""
    from fantasytalking.audio_windows import released_frame_windows
    from fantasytalking.checkpoints.adapter import load_adapter
    from fantasytalking.conditions import Conditions

    tensors, metadata = read(golden / "official_forward_frame.safetensors")
    wan = {name.removeprefix("wan."): value for name, value in tensors.items() if name.startswith("wan.")}
    save_file(wan, tmp_path / "wan.safetensors", metadata={"num_heads": metadata["num_heads"]})
    audio = {name: value for name, value in tensors.items() if name.startswith(("proj_model", "audio_processor"))}
    save_file(audio, tmp_path / "released.safetensors")
    convert_checkpoint(tmp_path / "released.safetensors", tmp_path / "adapter")
    model = load_from_wan(tmp_path / "wan.safetensors", {"audio_token_dim": 64})
    load_adapter(model, tmp_path / "adapter")
    windows = released_frame_windows(tensors["in.audio_features"], int(metadata["num_frames"]), 4)
    conditions = Conditions(
        prompt_embeds=tensors["in.text_embeds"],
        image_embeds=tensors["in.image_embeds"],
        image_latents=tensors["in.image_condition"],
        audio_embeds=windows.tokens,
        audio_mask=windows.mask,
        face_embeds=torch.randn(1, 1, 512),
        motion_intensity=torch.rand(1, 2),
        condition_scale=torch.ones(1, 2),
    )
    with torch.no_grad():
        prediction = model(tensors["in.latents"], tensors["in.timestep"], conditions).sample
    torch.testing.assert_close(prediction, tensors["out.prediction"], rtol=0, atol=1e-5)


def test_a_wan_file_is_converted_to_a_diffusers_folder(tmp_path, monkeypatch):
    sizes = {"num_attention_heads": 1, "attention_head_dim": 128, "added_kv_proj_dim": 128}
    base = WanTransformer3DModel.from_pretrained(save_base(tmp_path / "base", **sizes))
    save_file(original_names(base), tmp_path / "wan.safetensors")
    assert run_here(monkeypatch, tmp_path / "wan.safetensors", tmp_path / "converted") == 0
    loaded, info = WanTransformer3DModel.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = base.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert {key: loaded.config[key] for key in sizes} == sizes
    whole = load_from_wan(tmp_path / "wan.safetensors", PORTRAIT)
    folder = load_from_wan(tmp_path / "converted", PORTRAIT)
    assert torch.equal(whole.patch_embedding.weight, folder.patch_embedding.weight)


def test_a_number_of_heads_that_cannot_be_inferred_is_required(tmp_path):
    base = WanTransformer3DModel.from_pretrained(save_base(tmp_path / "base"))
    save_file(original_names(base), tmp_path / "wan.safetensors")
    with raises_input_error(ErrorCode.missing_value, "num_heads", 48):
        convert_checkpoint(tmp_path / "wan.safetensors", tmp_path / "out")
    save_file(original_names(base), tmp_path / "wan.safetensors", metadata={"num_heads": "2"})
    convert_checkpoint(tmp_path / "wan.safetensors", tmp_path / "out")
    assert WanTransformer3DModel.load_config(tmp_path / "out")["num_attention_heads"] == 2


def test_a_base_loads_from_a_pipeline_folder_and_from_shards(tmp_path):
    save_base(tmp_path / "pipeline" / "transformer")
    base = WanTransformer3DModel.from_pretrained(tmp_path / "pipeline" / "transformer")
    base.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert open_model_folder(tmp_path / "shards").shapes.keys() == base.state_dict().keys()
    for folder in ("pipeline", "shards"):
        model = load_from_wan(tmp_path / folder, PORTRAIT)
        assert torch.equal(model.proj_out.weight, base.proj_out.weight)


def spoil_base(folder: Path, kind: str) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    if kind == "missing":
        del tensors["blocks.2.attn1.to_q.weight"]
    elif kind == "extra":
        tensors["vace_blocks.0.proj.weight"] = torch.zeros(2)
    elif kind == "shape":
        tensors["proj_out.weight"] = torch.zeros(64, 49)
    elif kind == "integers":
        tensors["proj_out.weight"] = torch.zeros(64, 48, dtype=torch.int8)
    if kind in ("missing", "extra", "shape", "integers"):
        save_file(tensors, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "no weights":
        path.unlink()
    else:
        config = folder / "config.json"
        text = config.read_text()
        spoilt = {
            "json": "{",
            "class": text.replace("WanTransformer3DModel", "WanVACETransformer3DModel"),
            "layers": text.replace('"num_layers": 3', '"num_layers": 900000'),
            "type": text.replace('"ffn_dim": 64', '"ffn_dim": "wide"'),
            "key": text.replace('"ffn_dim"', '"fnf_dim"'),
        }
        config.write_text(spoilt[kind])


SPOILT = {
    "missing": (ErrorCode.shape_mismatch, "blocks.2.attn1.to_q.weight"),
    "extra": (ErrorCode.shape_mismatch, "vace_blocks.0.proj.weight"),
    "shape": (ErrorCode.shape_mismatch, "proj_out.weight"),
    "integers": (ErrorCode.invalid_type, "proj_out.weight"),
    "truncated": (ErrorCode.malformed_file, None),
    "no weights": (ErrorCode.missing_weights, None),
    "json": (ErrorCode.malformed_file, None),
    "class": (ErrorCode.invalid_choice, "_class_name"),
    "layers": (ErrorCode.shape_mismatch, "num_layers"),
    "type": (ErrorCode.invalid_type, "ffn_dim"),
    "key": (ErrorCode.unknown_key, "fnf_dim"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_an_invalid_base_is_rejected_in_one_line(tmp_path, kind):
    folder = save_base(tmp_path / "transformer")
    spoil_base(folder, kind)
    with raises_input_error(*SPOILT[kind]) as error:
        load_from_wan(folder, PORTRAIT)
    assert "\n" not in str(error.value)


def test_the_text_width_is_the_bases(tmp_path):
    assert load_from_wan(save_base(tmp_path, text_dim=24), PORTRAIT).config.text_dim == 24
    assert BASE["text_dim"] != 24


def spoil_reference(golden: Path, kind: str, path: Path) -> None:
    tensors, metadata = read(golden / "official_forward_frame.safetensors")
    if kind == "frames":
        metadata["num_frames"] = "32"
    elif kind == "other frames":
        metadata["num_frames"] = "29"
    elif kind == "heads":
        metadata["num_heads"] = "7"
    elif kind == "scale":
        metadata["audio_scale"] = "loud"
    elif kind == "no metadata":
        metadata = {}
    elif kind == "short audio":
        tensors["in.audio_features"] = tensors["in.audio_features"][:, :5].contiguous()
    elif kind == "half audio":
        tensors["in.audio_features"] = tensors["in.audio_features"].half()
    elif kind == "no input":
        del tensors["in.latents"]
    elif kind == "no base tensor":
        del tensors["wan.blocks.1.self_attn.q.weight"]
    elif kind == "no audio tensor":
        del tensors["audio_processor.blocks.1.cross_attn.processor.k_proj.weight"]
    elif kind == "no blocks":
        tensors = {name: value for name, value in tensors.items() if ".blocks.1." not in name or "wan" in name}
    save_file(tensors, path, metadata=metadata)


REFERENCES = {
    "frames": (ErrorCode.out_of_range, "num_frames"),
    "other frames": (ErrorCode.shape_mismatch, "audio_embeds"),
    "heads": (ErrorCode.out_of_range, "num_heads"),
    "scale": (ErrorCode.invalid_type, "audio_scale"),
    "no metadata": (ErrorCode.missing_value, "num_heads"),
    "short audio": (ErrorCode.out_of_range, "audio tokens"),
    "half audio": (ErrorCode.invalid_type, None),
    "no input": (ErrorCode.shape_mismatch, "in.latents"),
    "no base tensor": (ErrorCode.shape_mismatch, "blocks.1.attn1.to_q.weight"),
    "no audio tensor": (
        ErrorCode.shape_mismatch,
        "audio_processor.blocks.1.cross_attn.processor.k_proj.weight",
    ),
    "no blocks": (ErrorCode.shape_mismatch, None),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_an_invalid_reference_is_rejected_in_one_line(golden, tmp_path, kind):
    spoil_reference(golden, kind, tmp_path / "reference.safetensors")
    with raises_input_error(*REFERENCES[kind]) as error:
        reference_forward(tmp_path / "reference.safetensors")
    assert "\n" not in str(error.value)


def test_the_script_reports_errors_in_one_line_and_writes_nothing(golden, tmp_path, monkeypatch, capsys):
    spoil_reference(golden, "frames", tmp_path / "reference.safetensors")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    out = tmp_path / "out"
    for arguments in (
        ["--forward", tmp_path / "reference.safetensors", out / "o.safetensors"],
        [tmp_path / "text.ckpt", out / "adapter"],
        [tmp_path / "nowhere", out / "adapter"],
        [tmp_path, out / "released.ckpt"],
    ):
        assert run_here(monkeypatch, *arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        assert not out.exists() or not list(out.iterdir())

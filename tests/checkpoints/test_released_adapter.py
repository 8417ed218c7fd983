"""Released files and their ports as adapters: for inference, for training, and converted."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.checkpoints.released_adapter import describe_adapter, load_any_adapter
from fantasytalking.checkpoints.released_audio import to_released_audio
from fantasytalking.checkpoints.released_portrait import to_released_expression
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.expression import ExpressionEncoder, copy_expression_encoder
from fantasytalking.encoders.fantasy_portrait.pd_fgc import PdFgcNetwork
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from fantasytalking.pipeline.model_facts import StoredModel
from fantasytalking.training.model_setup import load_initial_weights
from tests.checkpoints.test_expression_adapter import expression_of, expressive
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import adapters, base, one_thread
from tests.helpers.tiny_transformer import randomize_zero_init, tiny_transformer

__all__ = ["adapters", "base", "one_thread"]

Writer = Callable[[dict[str, Tensor], Path], Path]


def acvlab(tensors: dict[str, Tensor], folder: Path) -> Path:
    parts: dict[str, dict[str, Tensor]] = {"proj_model": {}, "audio_processor": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    torch.save(parts, folder / "fantasytalking_model.ckpt")
    return folder / "fantasytalking_model.ckpt"


def kijai(tensors: dict[str, Tensor], folder: Path) -> Path:
    """Blocks in float16 and the projector in float32."""
    stored = {}
    for name, value in tensors.items():
        short = name.removeprefix("audio_processor.").replace(".processor.", ".")
        stored[short] = value.float() if name.startswith("proj_model") else value.half()
    save_file(stored, folder / "fantasytalking_fp16.safetensors", metadata={"format": "pt"})
    return folder / "fantasytalking_fp16.safetensors"


def wan2gp(tensors: dict[str, Tensor], folder: Path, prefix: str = "") -> Path:
    """Two files: the blocks, and the projector without a prefix."""
    blocks = {name.removeprefix("audio_processor."): value for name, value in tensors.items() if "blocks" in name}
    path = folder / "wan2.1_fantasy_speaking_14B_bf16.safetensors"
    save_file({prefix + name: value.bfloat16() for name, value in blocks.items()}, path)
    projector = {name.removeprefix("proj_model."): value for name, value in tensors.items() if "blocks" not in name}
    save_file(projector, folder / "fantasy_proj_model.safetensors")
    return path


def wan2gp_with_prefix(tensors: dict[str, Tensor], folder: Path) -> Path:
    return wan2gp(tensors, folder, "diffusion_model.")


def audio_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The audio module in values that every dtype holds; without positions, which the released model lacks."""
    state = {name: value for name, value in model.state_dict().items() if adapter_module_of(name) == "audio"}
    state.pop("audio_projector.positions", None)
    return {name: value.bfloat16().half().float() for name, value in state.items()}


@pytest.mark.parametrize("write", [acvlab, kijai, wan2gp, wan2gp_with_prefix])
def test_every_form_of_the_audio_weights(tmp_path: Path, write: Writer) -> None:
    audio = audio_of(tiny_transformer(seed=5))
    path = write(to_released_audio(audio), tmp_path)
    model = tiny_transformer(seed=9)
    others = {name: value.clone() for name, value in model.state_dict().items() if adapter_module_of(name) != "audio"}
    assert load_any_adapter(model, path) == ["audio"]
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in audio.items())
    assert all(torch.equal(state[name], value) for name, value in others.items())
    described = describe_adapter(path)
    assert described.modules == ["audio"] and described.audio_window == "official"
    convert_checkpoint(path, tmp_path / "adapter")
    converted = load_file(tmp_path / "adapter/adapter.safetensors")
    assert all(torch.equal(converted[name].float(), value) for name, value in audio.items())
    convert_checkpoint(tmp_path / "adapter", tmp_path / "back.ckpt")
    assert load_any_adapter(model, tmp_path / "back.ckpt") == ["audio"]


def test_positions_of_a_model_that_has_them_are_zero(tmp_path: Path) -> None:
    model = tiny_transformer(seed=9, audio_positions=15)
    path = kijai(to_released_audio(audio_of(tiny_transformer(seed=5))), tmp_path)
    load_any_adapter(model, path)
    assert not model.audio_projector.positions.any()


def test_half_of_wan2gps_weights_is_refused(tmp_path: Path) -> None:
    path = wan2gp(to_released_audio(audio_of(tiny_transformer())), tmp_path)
    with raises_input_error(ErrorCode.shape_mismatch):
        describe_adapter(tmp_path / "fantasy_proj_model.safetensors")
    (tmp_path / "fantasy_proj_model.safetensors").unlink()
    with raises_input_error(ErrorCode.shape_mismatch, "proj_model.norm.bias") as error:
        describe_adapter(path)
    assert "fantasy_proj_model.safetensors" in str(error.value)


def test_weights_for_another_model_change_nothing(tmp_path: Path) -> None:
    path = kijai(to_released_audio(audio_of(tiny_transformer())), tmp_path)
    model = tiny_transformer(num_layers=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with raises_input_error(ErrorCode.shape_mismatch):
        load_any_adapter(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_starts_from_a_port(tmp_path: Path) -> None:
    audio = audio_of(tiny_transformer(seed=5))
    path = kijai(to_released_audio(audio), tmp_path)
    model = tiny_transformer(seed=9)
    assert load_initial_weights(model, path, "base").modules == ["audio"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in audio.items())


def test_inference_takes_a_released_file_as_its_adapter(base: Path, tmp_path: Path) -> None:
    source = load_from_wan(base, asdict(load_model_config("nano").portrait))
    randomize_zero_init(source, 0.3)
    audio = audio_of(source)
    path = kijai(to_released_audio(audio), tmp_path)
    overrides = [f"base={base}", f"adapter={path}", "device=cpu", "face_encoder=null"]
    config = load_config(InferConfig, preset_path("nano", "infer"), overrides)
    model = resolve_model(config)
    assert model.facts.trained_modules == ("audio",) and model.stored.audio_window[0] == "official"
    state = load_pipeline(config, model).transformer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in audio.items())


def with_encoder(folder: Path) -> tuple[Path, dict[str, Tensor], PdFgcNetwork]:
    """Kijai's FantasyPortrait: adapter and expression encoder in one file."""
    expression = {name: value.half().float() for name, value in expression_of(expressive()).items()}
    torch.manual_seed(0)
    network = PdFgcNetwork()
    stored = {name: value.half() for name, value in to_released_expression(expression, flat=True).items()}
    stored |= {f"pd_fpg.{name}": value.clone() for name, value in network.state_dict().items()}
    stored["pd_fpg.mouth_embed.1.weight"] = torch.zeros(500, 512)
    path = folder / "Wan2_1_FantasyPortrait_fp16.safetensors"
    save_file(stored, path)
    return path, expression, network


def test_a_portrait_adapter_with_its_encoder(tmp_path: Path) -> None:
    path, expression, network = with_encoder(tmp_path)
    model = tiny_transformer(seed=9)
    assert load_any_adapter(model, path) == ["expression"]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expression.items())
    assert describe_adapter(path).modules == ["expression"]
    assert StoredModel.read("base", path).expression_encoder == path, "the file is the encoder, too"
    copy_expression_encoder(path, tmp_path / "copy")
    assert len(load_file(tmp_path / "copy/pd_fpg.safetensors")) == len(network.state_dict()) + 1
    for source in (path, tmp_path / "copy"):
        found = ExpressionEncoder.from_pretrained(source).network.state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(found[name], value) or "num_batches_tracked" in name, name

"""LoRA methods of the pipeline: every spelling equals a merge by hand, and nothing is left out silently."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.lora_adapter import ScaledLora, apply_lora_files
from fantasytalking.checkpoints.lora_fusion import fuse_lora_file
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.lora_schedule import StepStrength
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

RANK = 2
LAYERS = {
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn2.to_out.0": "blocks.1.cross_attn.o",
    "blocks.2.ffn.net.0.proj": "blocks.2.ffn.0",
    "blocks.1.attn2.add_k_proj": "blocks.1.cross_attn.k_img",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
}
"""Wan's names by diffusers'."""


@pytest.fixture
def model(pipe):
    """A pipeline with a tiny transformer of three blocks, whose weights a test may change."""
    parts = {**pipe.components, "transformer": tiny_transformer()}
    return FantasyTalkingPipeline(**parts)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def pairs(model: FantasyTalkingPipeline) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer."""
    found = {}
    for number, layer in enumerate(LAYERS):
        rows, columns = model.transformer.get_submodule(layer).weight.shape
        found[layer] = (random(number, RANK, columns), random(number + 100, rows, RANK))
    return found


def predict(model: FantasyTalkingPipeline, **options) -> Tensor:
    with torch.no_grad():
        return model.transformer(*tiny_latents(1), tiny_conditions(1), return_dict=False, **options)[0]


def merged_by_hand(
    model: FantasyTalkingPipeline, scale: float, changes: dict[str, Tensor] | None = None, weight: float = 1.0
) -> Tensor:
    other = copy.copy(model)
    other.transformer = copy.deepcopy(model.transformer)
    parameters = dict(other.transformer.named_parameters())
    with torch.no_grad():
        for layer, (down, up) in pairs(model).items():
            parameters[f"{layer}.weight"] += weight * scale * (up @ down)
        for name, change in (changes or {}).items():
            parameters[name] += weight * change
    return predict(other)


def spelt(model: FantasyTalkingPipeline, spelling: str) -> tuple[dict[str, Tensor], float]:
    """Tensors of a file, and the scale that they state."""
    down, up = ("lora_A", "lora_B") if spelling in ("diffusers", "peft", "comfy") else ("lora_down", "lora_up")
    prefix = {"diffusers": "transformer.", "peft": "base_model.model.", "musubi": "lora_unet_"}.get(
        spelling, "diffusion_model."
    )
    state = {}
    for layer, (first, second) in pairs(model).items():
        name = layer if spelling in ("diffusers", "peft") else LAYERS[layer]
        name = prefix + (name.replace(".", "_") if spelling == "musubi" else name)
        state |= {f"{name}.{down}.weight": first, f"{name}.{up}.weight": second}
        if spelling in ("kohya", "musubi"):
            state[f"{name}.alpha"] = torch.tensor(5.0)
    return {name: value.contiguous() for name, value in state.items()}, 2.5 if f"{name}.alpha" in state else 1.0


@pytest.mark.parametrize("spelling", ["diffusers", "peft", "comfy", "kohya", "musubi"])
def test_every_spelling_equals_a_merge_by_hand(model, tmp_path, spelling):
    state, scale = spelt(model, spelling)
    save_file(state, tmp_path / "lora.safetensors")
    plain, wanted = predict(model), merged_by_hand(model, scale)
    half = merged_by_hand(model, scale, weight=0.5)
    model.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="style")
    assert (predict(model) - wanted).abs().max() < 1e-5 < (plain - wanted).abs().max()
    assert model.get_list_adapters() == {"transformer": ["style"]} and model.get_active_adapters() == ["style"]
    assert (predict(model, attention_kwargs={"scale": 0.5}) - half).abs().max() < 1e-5
    model.set_adapters("style", 0.5)
    assert (predict(model) - half).abs().max() < 1e-5
    model.set_adapters("style", 1.0)
    model.fuse_lora()
    assert (predict(model) - wanted).abs().max() < 1e-5
    model.unfuse_lora()
    model.unload_lora_weights()
    assert (predict(model) - plain).abs().max() < 1e-5


def full_changes(model: FantasyTalkingPipeline) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Changes of a distilled LoRA besides its pairs: as named in a file, and by parameter."""
    named = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.1.cross_attn.norm_k_img.diff": "blocks.1.attn2.norm_added_k.weight",
        "blocks.2.norm3.diff": "blocks.2.norm2.weight",
        "blocks.2.norm3.diff_b": "blocks.2.norm2.bias",
        "blocks.0.diff_m": "blocks.0.scale_shift_table",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "patch_embedding.diff": "patch_embedding.weight",
    }
    parameters = dict(model.transformer.named_parameters())
    values = {name: random(number + 200, *parameters[name].shape) for number, name in enumerate(named.values())}
    return {f"diffusion_model.{key}": values[name] for key, name in named.items()}, values


def test_full_changes_follow_the_adapter(model, tmp_path):
    state, scale = spelt(model, "kohya")
    named, changes = full_changes(model)
    save_file(state | named, tmp_path / "lora.safetensors")
    plain, wanted = predict(model), merged_by_hand(model, scale, changes)
    half = merged_by_hand(model, scale, changes, weight=0.5)
    norm = model.transformer.blocks[2].norm2.weight.clone()
    model.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="fast")
    assert (predict(model) - wanted).abs().max() < 1e-5
    model.set_adapters("fast", 0.5)
    assert (predict(model) - half).abs().max() < 1e-5
    with raises_input_error(ErrorCode.unsupported, "attention_kwargs", 0.5):
        model("no.png", attention_kwargs={"scale": 0.5})
    model.disable_lora()
    assert (predict(model) - plain).abs().max() < 1e-5
    assert torch.equal(model.transformer.blocks[2].norm2.weight, norm)
    model.enable_lora()
    model.set_adapters("fast", 1.0)
    other, _ = spelt(model, "diffusers")
    model.load_lora_weights(other, adapter_name="other")
    model.set_adapters("fast")
    assert (predict(model) - wanted).abs().max() < 1e-5
    model.delete_adapters("other")
    model.unload_lora_weights()
    assert torch.equal(model.transformer.blocks[2].norm2.weight, norm), "restored exactly"
    assert not model.transformer.has_full_changes


def test_an_adapter_is_replaced_in_place(model):
    first, scale = spelt(model, "kohya")
    named, changes = full_changes(model)
    del named["diffusion_model.head.head.diff"], changes["proj_out.weight"]  # a layer that `first` does not have
    second = {name: -value if "lora_down" in name else value for name, value in first.items()}
    wanted = merged_by_hand(model, -scale, changes)
    model.load_lora_weights(first | dict(list(named.items())[:1]), adapter_name="style")
    with raises_input_error(ErrorCode.conflict, "adapter_name", "style"):
        model.load_lora_weights(second, adapter_name="style")
    with raises_input_error(ErrorCode.conflict, "adapter_name", "other"):
        model.load_lora_weights(second, adapter_name="other", hotswap=True)
    model.load_lora_weights(second | named, adapter_name="style", hotswap=True)
    assert (predict(model) - wanted).abs().max() < 1e-5


def test_what_is_fused_stays_when_the_adapter_is_unloaded(model, tmp_path):
    state, scale = spelt(model, "kohya")
    named, changes = full_changes(model)
    wanted = merged_by_hand(model, scale, changes)
    model.load_lora_weights(state | named)
    model.fuse_lora()
    model.unload_lora_weights()
    assert (predict(model) - wanted).abs().max() < 1e-5
    model.save_pretrained(tmp_path / "saved")


def test_the_scale_of_a_peft_folder(model, tmp_path):
    state, _ = spelt(model, "peft")
    save_file(state, tmp_path / "adapter_model.safetensors")
    settings = {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"blocks.0.attn1.to_q": 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    first, rest = random(0, RANK, 48), 3.0
    wanted_by_layer = {f"{layer}.weight": rest * (up @ down) for layer, (down, up) in pairs(model).items()}
    down, up = pairs(model)["blocks.0.attn1.to_q"]
    assert torch.equal(down, first)
    wanted_by_layer["blocks.0.attn1.to_q.weight"] = 1.5 * (up @ down)
    wanted = merged_by_hand(model, 0.0, wanted_by_layer)
    model.load_lora_weights(tmp_path, weight_name="adapter_model.safetensors")
    assert (predict(model) - wanted).abs().max() < 1e-5


def test_what_diffusers_saves_is_loaded_with_its_scale(model, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(0)
    settings = LoraConfig(r=RANK, lora_alpha=5, target_modules=["attn1.to_q"], init_lora_weights=False)
    model.transformer.add_adapter(settings)
    wanted, state = predict(model), get_peft_model_state_dict(model.transformer)
    FantasyTalkingPipeline.save_lora_weights(
        tmp_path, state, transformer_lora_adapter_metadata=model.transformer.peft_config["default"].to_dict()
    )
    model.unload_lora_weights()
    model.load_lora_weights(tmp_path)
    assert (predict(model) - wanted).abs().max() < 1e-6
    assert model.transformer.peft_config["default_0"].lora_alpha == 5


@pytest.mark.parametrize("ending", ["dora_scale", "lora_magnitude_vector"])
def test_dora_equals_the_fused_file(model, tmp_path, ending):
    state, magnitudes = {}, {}
    for number, (layer, (down, up)) in enumerate(pairs(model).items()):
        state |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": torch.tensor(4.0)}
        magnitudes[f"{layer}.{ending}"] = random(number, len(up), 1).abs() + 0.5
    if ending == "lora_magnitude_vector":
        magnitudes = {name: value.flatten() for name, value in magnitudes.items()}
    save_file(state | magnitudes, tmp_path / "dora.safetensors")
    with raises_input_error(ErrorCode.unsupported):
        apply_lora_files(model.transformer, [ScaledLora(tmp_path / "dora.safetensors", 1.0, StepStrength(stop=0.5))])
    fused = copy.deepcopy(model.transformer)
    fuse_lora_file(fused, tmp_path / "dora.safetensors")
    plain = predict(model)
    model.load_lora_weights(tmp_path / "dora.safetensors")
    with torch.no_grad():
        expected = fused(*tiny_latents(1), tiny_conditions(1), return_dict=False)[0]
    assert (predict(model) - expected).abs().max() < 1e-5 < (plain - expected).abs().max()
    model.unload_lora_weights()
    assert torch.equal(predict(model), plain)
    some = dict(list(magnitudes.items())[1:])
    by_columns = {
        name: torch.ones(1, model.transformer.get_parameter(f"{name.rpartition('.')[0]}.weight").shape[1])
        for name in magnitudes
    }
    for wrong in (some, by_columns):
        with raises_input_error(ErrorCode.unsupported):
            model.load_lora_weights(state | wrong)


def test_a_lora_is_loaded_completely_or_not_at_all(model, tmp_path):
    state, _ = spelt(model, "kohya")
    plain = predict(model)
    wrong = {
        "diffusion_model.blocks.9.self_attn.q.lora_down.weight": torch.zeros(2, 48),
        "lora_te_text_model.lora_down.weight": torch.zeros(2, 48),
        "diffusion_model.blocks.0.self_attn.k.lora_down.weight": torch.zeros(2, 48),
        "diffusion_model.blocks.0.self_attn.k.dora_scale": torch.zeros(48),
        "diffusion_model.blocks.0.self_attn.k.diff_b": torch.full((48,), float("nan")),
    }
    for name, value in wrong.items():
        with pytest.raises(InputError) as error:
            model.load_lora_weights(state | {name: value})
        assert "\n" not in str(error.value)
        assert torch.equal(predict(model), plain) and not hasattr(model.transformer, "peft_config")
    with raises_input_error(ErrorCode.malformed_file, "lora"):
        model.load_lora_weights({"diffusion_model.blocks.0.self_attn.k.diff_b": torch.zeros(48)})
    (tmp_path / "lora.bin").write_bytes(b"no")
    with raises_input_error(ErrorCode.unsupported, "weight_name", "lora.bin"):
        model.load_lora_weights(tmp_path, weight_name="lora.bin")
    with raises_input_error(ErrorCode.unknown_key, "wieght_name"):
        model.load_lora_weights(tmp_path, wieght_name="lora.safetensors")
    with raises_input_error(ErrorCode.missing_weights, "lora", str(tmp_path / "gone.safetensors")):
        model.load_lora_weights(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("spelling", ["peft", "comfy", "kohya", "musubi"])
def test_the_transformer_refuses_to_load_nothing(model, spelling):
    """diffusers' own method keeps the tensors with its prefix, here none."""
    state, _ = spelt(model, spelling)
    with raises_input_error(ErrorCode.malformed_file, "prefix"):
        model.transformer.load_lora_adapter(state)

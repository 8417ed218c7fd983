"""Chosen savings: each does what it says, refuses what cannot work in one line, and is off unless asked for."""

import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from fantasytalking.checkpoints.lora_fusion import fuse_lora_file
from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.optimizations import OptimizationConfig, StepCache, apply_optimizations, choose_offload
from fantasytalking.models.cpu.attention import Float32PortraitAttnProcessor
from fantasytalking.models.experts import Experts
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_conditions, tiny_latents, tiny_transformer

CPU = torch.device("cpu")


def infer_config(*overrides: str) -> InferConfig:
    return load_config(InferConfig, CONFIGS_FOLDER / "nano" / "infer.yaml", overrides)


def test_nothing_is_saved_unless_asked_for():
    model = tiny_transformer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_optimizations(Experts(model), infer_config().optimizations, CPU)
    assert not model.is_cache_enabled
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "computed"),
    [
        (["optimizations.step_cache=first_block", "optimizations.cache_threshold=9"], 1),
        (
            [
                "optimizations.step_cache=mag_cache",
                "optimizations.mag_ratios=[1,1,1,1,1,1]",
                "optimizations.cache_threshold=9",
                "num_inference_steps=6",
            ],
            2,
        ),
        (["optimizations.step_cache=taylor_seer", "optimizations.cache_interval=3"], 4),
    ],
)
@torch.no_grad()
def test_step_caches_leave_blocks_out(overrides, computed):
    model, (latents, timestep) = tiny_transformer(), tiny_latents(batch=1)
    apply_optimizations(Experts(model), infer_config(*overrides).optimizations, CPU)
    calls: list[int] = []
    model.blocks[-1].ffn.net[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(6):
        with model.cache_context("0:text+audio"):
            model(latents, timestep, tiny_conditions(batch=1))
    assert len(calls) == computed


@pytest.mark.parametrize("wan_names", [False, True])
@pytest.mark.parametrize("kohya", [False, True])
@torch.no_grad()
def test_a_few_step_lora_is_fused_in_every_spelling(tmp_path, wan_names, kohya):
    model = tiny_transformer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    down, up = torch.randn(4, 48), torch.randn(64, 4)
    layer = "diffusion_model.blocks.1.ffn.0" if wan_names else "blocks.1.ffn.net.0.proj"
    ends = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    tensors = {f"{layer}.{ends[0]}.weight": down, f"{layer}.{ends[1]}.weight": up, f"{layer}.diff_b": torch.ones(64)}
    if kohya:
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    assert fuse_lora_file(model, tmp_path / "lora.safetensors", 0.5) == 1
    name = "blocks.1.ffn.net.0.proj"
    change = (0.25 if kohya else 0.5) * (up @ down)
    torch.testing.assert_close(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"] + change)
    torch.testing.assert_close(model.state_dict()[f"{name}.bias"], before[f"{name}.bias"] + 0.5)
    others = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert sorted(others) == [f"{name}.bias", f"{name}.weight"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.9.ffn.0.diff_b": (64,)}, "changes the layer 'blocks.9.ffn.net.0.proj', which this model lacks"),
        ({"blocks.1.ffn.0.lora_A.weight": (4, 48)}, "half a pair"),
        ({"blocks.1.ffn.0.lora_A.weight": (4, 48), "blocks.1.ffn.0.lora_B.weight": (63, 4)}, "the model's weight is"),
        ({"blocks.1.ffn.0.diff_b": (63,)}, "does not fit"),
        ({"blocks.1.ffn.0.weight": (64, 48)}, "no part of a LoRA"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_whole(tmp_path, tensors, message):
    model = tiny_transformer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    good = {"blocks.0.ffn.0.diff_b": torch.ones(64)}
    save_file({**good, **{name: torch.ones(shape) for name, shape in tensors.items()}}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=message):
        fuse_lora_file(model, tmp_path / "lora.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_several_loras_are_fused_with_their_scales(tmp_path):
    model = tiny_transformer()
    bias = model.blocks[0].ffn.net[2].bias.clone()
    for name in ("a", "b", "c"):
        save_file({"blocks.0.ffn.2.diff_b": torch.ones(48)}, tmp_path / f"{name}.safetensors")
    settings = infer_config(
        f"optimizations.few_step_lora={tmp_path}/a.safetensors",
        "optimizations.few_step_lora_scale=2",
        f"optimizations.loras=[{{path: {tmp_path}/b.safetensors, scale: 0.5}}, {{path: {tmp_path}/c.safetensors}}]",
    ).optimizations
    apply_optimizations(Experts(model), settings, CPU)
    torch.testing.assert_close(model.blocks[0].ffn.net[2].bias, bias + 3.5)


@torch.no_grad()
def test_a_lora_of_one_expert_changes_that_one(tmp_path):
    high, low = tiny_transformer(), tiny_transformer(seed=1)
    before = [model.blocks[0].ffn.net[2].bias.clone() for model in (high, low)]
    save_file({"blocks.0.ffn.2.diff_b": torch.ones(48)}, tmp_path / "a.safetensors")
    settings = infer_config(
        f"optimizations.loras=[{{path: {tmp_path}/a.safetensors, expert: low}}, {{path: {tmp_path}/a.safetensors}}]"
    ).optimizations
    with raises_input_error(ErrorCode.conflict, "optimizations.loras[0].expert"):
        apply_optimizations(Experts(high), settings, CPU)
    apply_optimizations(Experts(high, low, 0.9), settings, CPU)
    for model, bias, change in zip((high, low), before, (1, 2), strict=True):
        torch.testing.assert_close(model.blocks[0].ffn.net[2].bias, bias + change)


def test_the_least_offloading_that_fits_is_chosen():
    parts = {"transformer": 30 * 2**30, "text_encoder": 10 * 2**30, "vae": 2**29, "audio_encoder": 2**29}
    assert [choose_offload(parts, limit) for limit in (80, 60, 24)] == ["none", "model", "group"]
    with raises_input_error(ErrorCode.insufficient_resources, "optimizations.vram_limit_gib", 1):
        choose_offload(parts, 1)


@pytest.mark.parametrize(
    ("override", "code", "field", "value"),
    [
        ("optimizations.cache_threshold=-1", ErrorCode.out_of_range, "optimizations.cache_threshold", -1.0),
        ("optimizations.cache_interval=1", ErrorCode.out_of_range, "optimizations.cache_interval", 1),
        ("optimizations.step_cache=mag_cache", ErrorCode.missing_value, "optimizations.mag_ratios", None),
        ("optimizations.mag_ratios=[1,1]", ErrorCode.conflict, "optimizations.mag_ratios", 2),
        (
            "optimizations.few_step_lora=weights.ckpt",
            ErrorCode.invalid_choice,
            "optimizations.few_step_lora",
            "weights.ckpt",
        ),
        ("optimizations.loras=[{path: a.pt}]", ErrorCode.invalid_choice, "optimizations.loras[0]", "a.pt"),
        (
            "optimizations.loras=[{path: a.safetensors, scale: 9}]",
            ErrorCode.out_of_range,
            "optimizations.loras[0].scale",
            9.0,
        ),
        (["stream=true", "optimizations.vae_tiling=true"], ErrorCode.conflict, "optimizations.vae_tiling", True),
        ("optimizations.vram_limit_gib=0", ErrorCode.out_of_range, "optimizations.vram_limit_gib", 0.0),
    ],
)
def test_impossible_optimizations_are_refused_in_one_line(override, code, field, value):
    with raises_input_error(code, field, value) as refused:
        infer_config(*([override] if isinstance(override, str) else override))
    assert "\n" not in str(refused.value)


def test_a_misspelt_optimization_gets_a_suggestion():
    with pytest.raises(InputError, match=r"step_cach.*'step_cache'"):
        infer_config("optimizations.step_cach=none")


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is there")
def test_missing_torchao_is_told():
    with raises_input_error(ErrorCode.unsupported, "optimizations.quantization", "int8"):
        infer_config("optimizations.quantization=int8")


def test_a_half_model_on_a_cpu_attends_in_float32():
    model = tiny_transformer().bfloat16()
    apply_optimizations(Experts(model), OptimizationConfig(step_cache=StepCache.none), CPU)
    assert all(isinstance(block.attn2.processor, Float32PortraitAttnProcessor) for block in model.blocks)

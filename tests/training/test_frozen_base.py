"""Training with a quantized base: products and gradients, whole runs, resuming, memory of the plan."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.checkpoints.adapter_formats import load_any_adapter
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.stored_tensors import scaled_values
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.stored_linear import ScaledLinear, quantize_rows, stored_weight_names
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.training.config import BaseQuantization, TrainConfig
from fantasytalking.training.export import export_checkpoint
from fantasytalking.training.frozen_base import is_quantized
from fantasytalking.training.memory_estimate import PAPER_CLIP_SIZE, build_meta_model, estimate_memory
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors, read_losses

NANO = ROOT / "checkpoints" / "nano"
LORA = {"stage__lora__rank": 4, "stage__lora__alpha": 4.0}


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.int8, 0.5 / 127), (torch.float8_e4m3fn, 2**-4)], ids=["int8", "float8"]
)
def test_rows_keep_their_largest_value(dtype: torch.dtype, error: float) -> None:
    """int8 is off by half a step of the row's largest value, float8 by a sixteenth of each value."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6)[:, None]
    weight[2] = 0
    stored = quantize_rows(weight, dtype)
    read = scaled_values(stored.values, stored.scale)
    largest = weight.abs().amax(1, keepdim=True)
    allowed = error * (largest if dtype is torch.int8 else weight.abs() + largest * 2**-9)
    assert stored.values.dtype is dtype
    assert ((read - weight).abs() <= allowed * 1.001).all()
    assert torch.allclose(read.abs().amax(1, keepdim=True), largest, rtol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_dequantized_weight(autocast: bool) -> None:
    """And the dequantized weight is not kept for the backward pass."""
    generator = torch.Generator().manual_seed(0)
    stored = quantize_rows(torch.randn(24, 16, generator=generator), torch.int8)
    layer = ScaledLinear(stored, True, torch.float32)
    layer.bias = torch.nn.Parameter(torch.randn(24, generator=generator))
    weight = scaled_values(stored.values, stored.scale)
    inputs = torch.randn(2, 5, 16, generator=generator)
    found, expected = (inputs.clone().requires_grad_() for _ in range(2))
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape if tensor.is_floating_point() else torch.Size())
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = layer(found)
        reference = F.linear(expected, weight, layer.bias)
    assert torch.equal(output, reference) and weight.shape not in kept
    output.float().square().sum().backward()
    bias_gradient, layer.bias.grad = layer.bias.grad, None
    reference.float().square().sum().backward()
    assert torch.allclose(found.grad, expected.grad, rtol=1e-5, atol=1e-6)
    assert torch.allclose(bias_gradient, layer.bias.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, LORA], ids=["adapters", "lora"])
def test_a_resumed_run_equals_a_straight_one(configure: Configure, changes: dict[str, object]) -> None:
    """And its losses are those of a whole base within the rounding of its weights."""
    settings = {"base_quantization": BaseQuantization.int8, **changes}
    straight = configure("straight", stage__steps=4, **settings)
    trainer = Trainer(straight)
    assert len(stored_weight_names(trainer.model)) > 0
    trainer.train()
    Trainer(configure("resumed", stage__steps=2, **settings)).train()
    resumed = configure("resumed", stage__steps=4, **settings)
    Trainer(resumed).train()
    assert bit_equal(load_checkpoint_tensors(resumed.output, 4), load_checkpoint_tensors(straight.output, 4))
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))
    whole = configure("whole", stage__steps=4, **changes)
    Trainer(whole).train()
    assert read_losses(straight.output) == pytest.approx(read_losses(whole.output), rel=0.02)
    assert read_losses(straight.output) != read_losses(whole.output)
    exported = Path(straight.output).parent / "exported"
    export_checkpoint(Path(straight.output), exported)
    assert bit_equal(load_file(exported / "adapter.safetensors"), load_adapter_tensors(straight.output))


def test_what_trains_is_not_quantized(configure: Configure) -> None:
    config = configure(base_quantization=BaseQuantization.float8, stage__trainable="[audio,'blocks.0.attn1.*']")
    model, _ = build_model(config, torch.float32)
    stored = set(stored_weight_names(model))
    assert stored and not any(name.startswith("blocks.0.attn1") for name in stored)
    assert stored == {name for name, _ in model.named_parameters() if is_quantized(config, name)}
    assert model.get_parameter("blocks.0.attn1.to_q.weight").requires_grad


def test_a_base_without_quantized_weights_cannot_keep_them(configure: Configure) -> None:
    with raises_input_error(ErrorCode.conflict, "optimizations.quantization"):
        build_model(configure(base_quantization=BaseQuantization.stored), torch.float32)


def test_the_plan_counts_what_is_loaded(configure: Configure) -> None:
    config = configure(base_quantization=BaseQuantization.int8, base=str(NANO))
    model, _ = build_model(config, torch.float32)
    loaded = sum(value.nbytes for value in model.parameters() if not value.requires_grad)
    loaded += sum(value.nbytes for name, value in model.named_buffers() if name.endswith("weight_scale"))
    assert _frozen_bytes(config) == loaded < 0.6 * _frozen_bytes(configure(base=str(NANO)))


def _frozen_bytes(config: TrainConfig) -> int:
    return estimate_memory(config, PAPER_CLIP_SIZE, build_meta_model(config)).frozen


def test_low_rank_adapter_modules_beside_a_quantized_base(configure: Configure) -> None:
    """The modules' own matrices are frozen, and part of the adapter."""
    config = configure(
        base_quantization=BaseQuantization.int8,
        activation_offload=True,
        gradient_checkpointing=True,
        stage__steps=3,
        stage__trainable="[motion]",
        stage__lora__rank=4,
        stage__lora__alpha=4.0,
        stage__lora__target_modules="[attn1.to_q,attn2.audio_k_proj,attn2.audio_v_proj]",
    )
    fresh, _ = build_model(config, torch.float32)
    folder = Trainer(config).train()
    described = read_adapter_config(folder)
    assert described.modules == ["audio", "motion"]
    stored, lora = load_file(folder / "adapter.safetensors"), load_file(folder / "lora.safetensors")
    name = "blocks.0.attn2.audio_v_proj"
    assert torch.equal(stored[f"{name}.weight"], fresh.get_parameter(f"{name}.base_layer.weight"))
    assert lora[f"{name}.lora_B.weight"].abs().max() > 0
    whole = load_from_wan(config.base, asdict(load_model_config("nano").portrait))
    assert load_any_adapter(whole, folder) == ["audio", "motion"]
    assert torch.equal(whole.get_parameter(f"{name}.lora_B.default.weight"), lora[f"{name}.lora_B.weight"])


def test_offloaded_activations_change_nothing(configure: Configure) -> None:
    losses = []
    for name, offload in (("kept", False), ("offloaded", True)):
        config = configure(name, stage__steps=2, gradient_checkpointing=True, activation_offload=offload)
        Trainer(config).train()
        losses.append((read_losses(config.output), load_adapter_tensors(config.output)))
    assert losses[0][0] == losses[1][0] and bit_equal(losses[0][1], losses[1][1])

"""Settings by the memory of a card: every card's plan fits it, and the right card is chosen."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference import cards
from fantasytalking.inference.arguments import parse_job
from fantasytalking.inference.component_shapes import build_meta_components
from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.memory_plan import Phase, run_configuration
from fantasytalking.inference.optimizations import WeightQuantization
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline import ModelFacts
from tests.helpers.errors import raises_input_error

INPUTS = ["--image", "data/demo/portrait.png", "--audio", "data/demo/speech.wav"]
LARGEST = {"8gb": "512x512", "12gb": "848x480", "16gb": "720x720", "24gb": "848x480", "48gb": "848x480"}
"""Largest video of each card, as docs/models.md states."""
STORED_BITS = {"8gb": 8.0, "12gb": 8.0, "16gb": 8.0, "24gb": 5.5}
"""Bits per weight of the largest file that is stated for the card: float8 for groups, Q5_K for a whole transformer."""


def card_config(card: str) -> InferConfig:
    return load_config(InferConfig, preset_path("wan14b", card))


def test_a_card_is_a_configuration_and_its_memory_settings_suit_another() -> None:
    for card in cards.CARD_GIB:
        alone, own = parse_job([*INPUTS, "--card", card], "test").config, card_config(card)
        assert alone == own and own.model == "wan14b"
        fast = ["--config", "configs/wan14b/fast.yaml", "--card", card]
        both = parse_job([*INPUTS, *fast, "dtype=float16"], "test").config
        assert both.num_inference_steps == 4 and both.offload is own.offload and both.dtype.value == "float16"
        assert replace(both.optimizations, few_step_lora=None) == own.optimizations


@pytest.mark.parametrize(
    ("gib", "card"), [(7.6, "8gb"), (11.8, "12gb"), (14.6, "16gb"), (23.6, "24gb"), (44.4, "48gb"), (139, "48gb")]
)
def test_the_card_follows_from_the_memory(monkeypatch: pytest.MonkeyPatch, gib: float, card: str) -> None:
    monkeypatch.setattr(cards, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(cards, "device_name", lambda device: "a card")
    monkeypatch.setattr(cards, "total_memory", lambda device: int(gib * 2**30))
    assert cards.resolve_card("auto") == card


def test_a_machine_without_a_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, gib in (("cpu", 64), ("cuda", 4)):
        monkeypatch.setattr(cards, "resolve_device", lambda name, device=device: torch.device(device))
        monkeypatch.setattr(cards, "total_memory", lambda device, gib=gib: gib << 30)
        with raises_input_error(ErrorCode.insufficient_resources, "--card", "auto"):
            parse_job([*INPUTS, "--card", "auto"], "test")


@cache
def activation_bytes(size: str) -> dict[Phase, int]:
    """Activations of each phase of a whole window; those of denoising grow by what each layer caches."""
    config, preset = card_config("48gb"), load_model_config("wan14b")
    config.sizes = [size]
    facts = ModelFacts(("audio",), None, preset.geometry, False, False)
    one, two = (
        run_configuration(config, facts, build_meta_components(preset, None, count), 81, "cuda", 1 << 33)
        for count in (1, 2)
    )
    found = {phase: run.peak_bytes for phase, run in one.items()}
    found[Phase.denoise] += (preset.wan.num_layers - 1) * (two[Phase.denoise].peak_bytes - found[Phase.denoise])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("card", list(cards.CARD_GIB))
def test_the_plan_of_every_card_fits_it(card: str) -> None:
    config, preset = card_config(card), load_model_config("wan14b")
    memory = int(cards.CARD_GIB[card] * cards.USABLE_FRACTION * 2**30)
    activations = activation_bytes(LARGEST[card])
    parts = build_meta_components(preset)
    weights = {name: 4 * sum(value.numel() for value in parts[name].parameters()) for name in ("vae", "audio_encoder")}
    text_encoder = 2 * sum(value.numel() for value in parts["text_encoder"].parameters())
    model = build_meta_components(preset, None, 1)["transformer"].bfloat16()
    bits = 16.0 if config.optimizations.quantization is WeightQuantization.none else STORED_BITS[card]
    is_adapter = {name: adapter_module_of(name) is not None for name, _ in model.named_parameters()}
    block = sum(
        value.nbytes if is_adapter[name] else value.nbytes * bits / 16
        for name, value in model.named_parameters()
        if name.startswith("blocks.")
    )
    rest = sum(value.nbytes for name, value in model.named_parameters() if not name.startswith("blocks."))
    largest_layer = max(value.numel() for value in model.parameters())
    dequantized = 0 if bits == 16 else 6 * largest_layer  # in float32, then in bfloat16
    resident = weights["vae"] + weights["audio_encoder"]
    transformer = rest + preset.wan.num_layers * block
    planned = {
        Offload.group: {
            Phase.denoise: resident + rest + 2 * block + dequantized + activations[Phase.denoise],
            Phase.first_frame: resident + activations[Phase.first_frame],
            Phase.decode: resident + activations[Phase.decode],
        },
        Offload.model: {
            Phase.denoise: transformer + dequantized + activations[Phase.denoise],
            Phase.prompt: text_encoder,
            Phase.first_frame: weights["vae"] + activations[Phase.first_frame],
            Phase.decode: weights["vae"] + activations[Phase.decode],
        },
    }[config.offload]
    assert max(planned.values()) <= memory, {phase.value: round(size / 2**30, 2) for phase, size in planned.items()}

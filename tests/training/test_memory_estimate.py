"""Memory estimate: counts, and activations compared with a real forward pass."""

from pathlib import Path

import pytest
import torch

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.models.presets import build_meta_transformer, load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.memory_estimate import (
    PAPER_CLIP_SIZE,
    ClipSize,
    _saved_tensor_bytes,
    activation_bytes,
    build_meta_model,
    describe_plan,
    estimate_memory,
)
from fantasytalking.training.parameter_groups import set_trainable
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.tiny_corpus import make_corpus


def model_and_batch(config: TrainConfig) -> tuple[FantasyTalkingTransformer3DModel, TrainingBatch]:
    """The nano model on the CPU, and a batch of the corpus."""
    preset = load_model_config("nano")
    preset.wan.in_channels, preset.wan.out_channels = 36, 16  # the corpus', which are Wan's
    model = build_meta_transformer(preset).to_empty(device="cpu")
    set_trainable(model, config.stage.trainable)
    for value in (*model.parameters(), *model.buffers()):
        torch.nn.init.normal_(value.data) if value.is_floating_point() else None
    dataset = PortraitDataset(*config.data.manifests)
    return model, PortraitCollator(config.collate_config())([dataset[0], dataset[1]])


def kept_bytes(config: TrainConfig) -> int:
    """Bytes that autograd saves for a batch of the corpus on the nano model, on the CPU."""
    model, batch = model_and_batch(config)
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch.latents, torch.zeros(2), batch.conditions)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("alignment", ["clip", "frame"])
def test_activations_match_those_of_a_real_forward_pass(configure: Configure, alignment: str):
    config = configure(stage__alignment=alignment)
    estimate = activation_bytes(config, ClipSize(64, 64, 9, 25.0))
    assert 0.8 < estimate / kept_bytes(config) < 1.6


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_block_inputs_have_the_size_that_is_counted(configure: Configure, precision: str):
    """With gradient checkpointing they are what is kept of a block."""
    config = configure(mixed_precision=precision, gradient_checkpointing=True)
    model, batch = model_and_batch(config)
    inputs: list[torch.Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    model.enable_gradient_checkpointing()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        model.train()(batch.latents, torch.zeros(2), batch.conditions)
    size = ClipSize(64, 64, 9, 25.0)
    config.gradient_checkpointing = False
    blocks = len(model.blocks)
    one, two = (_saved_tensor_bytes(config, size, layers) for layers in (1, 2))
    config.gradient_checkpointing = True
    counted = activation_bytes(config, size) - (two - one) - (2 * one - two)
    assert sum(value.nbytes for value in inputs[:blocks]) == counted


def test_estimate_depends_on_gradient_checkpointing_and_size():
    config = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "stage1.yaml")
    checkpointed = activation_bytes(config, PAPER_CLIP_SIZE)
    config.gradient_checkpointing = False
    everything = activation_bytes(config, PAPER_CLIP_SIZE)
    assert everything > 8 * checkpointed
    half_as_long = activation_bytes(config, PAPER_CLIP_SIZE._replace(frames=41))
    assert half_as_long / everything == pytest.approx(11 / 21, abs=0.03)


def test_weights_are_counted():
    config = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "stage2.yaml", ["optimizer.ema_decay=0.99"])
    memory = estimate_memory(config, PAPER_CLIP_SIZE, build_meta_model(config))
    assert memory.frozen == 2 * 16_394_878_784
    assert memory.trainable == memory.gradients == memory.ema == 4 * 1_752_516_608
    assert memory.optimizer == 8 * 1_752_516_608
    block = (16_394_878_784 + 1_752_516_608) / 40  # nearly all weights are in the 40 blocks
    assert memory.gathered == pytest.approx(2 * 2 * block, rel=0.1)
    assert memory.data_parallel == memory.total + memory.gradients
    shared = memory.sharded(8) - memory.activations - memory.gathered
    assert shared == (2 * 16_394_878_784 + 5 * 4 * 1_752_516_608) // 8
    whole = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "stage2.yaml", ["stage.trainable=['*']"])
    everything = estimate_memory(whole, PAPER_CLIP_SIZE, build_meta_model(whole))
    assert everything.trainable == 4 * (16_394_878_784 + 1_752_516_608)
    assert everything.frozen == 0


def test_the_plan_counts_all_processes_and_names_small_buckets(configure: Configure, tmp_path: Path):
    manifest = make_corpus(tmp_path / "corpus", clips=9, sizes=((64, 64),) * 8 + ((96, 64),))
    config = configure(manifest=manifest, batch_size=2, stage__steps=9, data__exclude="[clip000]")
    text = describe_plan(config, world_size=3)
    assert "bucket 64x64, 9 frames at 25 fps: 7 clips\n" in text
    assert "1 clips, fewer than the 6 of a step: one step in about 6 epochs repeats them" in text
    assert "9 steps of 2 clips per process, 3 process(es)" in text and "6.8 epochs" in text


def test_the_plan_counts_lora_and_needs_no_corpus(configure: Configure, tmp_path: Path):
    text = describe_plan(configure(manifest=tmp_path / "none.jsonl", stage__lora__rank=8))
    assert "no corpus yet" in text
    # 8 blocks, 8 layers of 256 to 256, two matrices of rank 8
    assert f"{8 * 8 * 2 * 8 * 256:,}" in text


def test_a_card_of_24_gb_trains_14b_on_small_clips():
    """int8 base, low-rank modules, 8-bit moments, activations in main memory: below 22 GiB, and 2 for the kernels."""
    config = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "lora_24gb.yaml")
    size = ClipSize.parse("256x256x81")
    memory = estimate_memory(config, size, build_meta_model(config))
    assert 20 * 2**30 < memory.total < 22 * 2**30
    larger = load_config(TrainConfig, CONFIGS_FOLDER / "wan14b" / "lora_48gb.yaml")
    assert 38 * 2**30 < estimate_memory(larger, PAPER_CLIP_SIZE, build_meta_model(larger)).total < 44 * 2**30
    with raises_input_error(ErrorCode.invalid_type, "--clip-size", "512"):
        ClipSize.parse("512")

"""Portrait stage: an expression condition is added to a model without one, and only it trains."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fantasytalking.checkpoints.adapter import read_adapter
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.released_portrait import write_released_expression
from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.models.expression_projector import projector_parameter_count
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.losses import drop_conditions
from fantasytalking.training.memory_estimate import ClipSize, activation_bytes, describe_plan
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DROPOUT_NAMES, DropoutConfig
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.run_artifacts import (
    bit_equal,
    corpus_loss,
    load_adapter_tensors,
    load_checkpoint_tensors,
    read_losses,
    step_on_second_device,
)
from tests.training.tiny_corpus import PORTRAIT_STAGE, make_driven_corpus

GOLDEN = [6.352704, 4.043443, 3.986603, 6.995604, 6.480916, 3.063789, 7.964361, 4.108559, 5.094437, 3.886072]
"""Losses of the first ten steps. They change only when what is computed changes."""
Portrait = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_driven_corpus(tmp_path_factory.mktemp("driven"))


@pytest.fixture
def portrait(configure: Configure, driven: Path) -> Portrait:
    """portrait("name", key__sub=value): a portrait stage on clips of one and of two people."""

    def build(name: str = "portrait", **changes: Any) -> TrainConfig:
        return configure(name, **{"manifest": driven, **PORTRAIT_STAGE, **changes})

    return build


def batch_of(config: TrainConfig, clips: tuple[int, ...] = (0, 1)) -> TrainingBatch:
    dataset = PortraitDataset(*config.data.manifests)
    return PortraitCollator(config.collate_config())([dataset[i] for i in clips])


def moved(model: torch.nn.Module) -> None:
    """Randomizes the value projections of the expression attention, which are initialized to zero."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("expression_v_proj.weight"):
                value.normal_(std=0.3)


@torch.no_grad()
def predict(model: torch.nn.Module, batch: TrainingBatch) -> torch.Tensor:
    return model.eval()(batch.latents, torch.full((len(batch.latents),), 500.0), batch.conditions).sample


def test_ten_steps_give_the_golden_losses(portrait: Portrait):
    config = portrait(stage__steps=10, checkpoints__interval=10)
    Trainer(config).train()
    assert read_losses(config.output) == pytest.approx(GOLDEN, rel=1e-4)


def test_twenty_steps_lower_the_loss_and_the_adapter_loads_into_a_plain_model(portrait: Portrait):
    config = portrait(stage__steps=20, batch_size=8, checkpoints__interval=20, optimizer__learning_rate=1e-2)
    fresh, _ = build_model(config, torch.float32)
    before = corpus_loss(fresh, config)
    trainer = Trainer(config)
    folder = trainer.train()
    after = corpus_loss(trainer.accelerator.unwrap_model(trainer.model), config)
    assert after < 0.9 * before
    plain, _ = build_model(portrait("plain", stage__expression="null", stage__trainable="[audio]"), torch.float32)
    load_expression_adapter(plain, folder)
    assert corpus_loss(plain, config) == pytest.approx(after, rel=1e-5)


def test_a_step_runs_entirely_on_another_device(portrait: Portrait):
    step_on_second_device(portrait())


def test_only_the_expression_modules_train_and_are_saved(portrait: Portrait):
    config = portrait()
    before, _ = build_model(config, torch.float32)
    trainer = Trainer(config)
    described, tensors = read_adapter(trainer.train())
    after = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    changed = {name for name, value in before.named_parameters() if not torch.equal(after[name], value)}
    expression = {name for name in after if adapter_module_of(name) == "expression"}
    assert changed == expression == set(tensors) == set(load_checkpoint_tensors(config.output, 2))
    assert described.modules == ["expression"]
    assert config.stage.expression is not None
    assert described.expression == config.stage.expression.to_module_config().to_dict()


def test_two_steps_then_resumed_to_four_equal_four(portrait: Portrait):
    changes = {"optimizer__ema_decay": 0.9, "stage__lora__rank": 2, "stage__lora__target_modules": "[attn2.to_q]"}
    straight = portrait("straight", stage__steps=4, **changes)
    Trainer(straight).train()
    Trainer(portrait("resumed", stage__steps=2, **changes)).train()
    recorded = Path(straight.output).parent / "resumed" / "run.json"
    known = json.loads(recorded.read_text())
    for key in ("data.region_boxes", "data.background"):  # as of a run that was started before these keys existed
        del known[key]
    recorded.write_text(json.dumps(known))
    resumed = portrait("resumed", stage__steps=4, **changes)
    folder = Trainer(resumed).train()
    assert bit_equal(load_checkpoint_tensors(resumed.output, 4), load_checkpoint_tensors(straight.output, 4))
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))
    assert read_losses(resumed.output) == read_losses(straight.output)
    assert read_adapter(folder)[0].lora == {"rank": 2, "alpha": 64.0, "targets": ["attn2.to_q"]}
    with raises_input_error(ErrorCode.conflict, "data.region_boxes", "tracked"):
        Trainer(portrait("resumed", stage__steps=4, data__region_boxes="tracked", **changes)).train()


def test_a_dropped_expression_equals_no_expression(portrait: Portrait):
    config = portrait()
    model, _ = build_model(config, torch.float32)
    moved(model)
    batch = batch_of(config)
    uniforms = {**dict.fromkeys(DROPOUT_NAMES, torch.tensor([0.9, 0.9])), "expression": torch.tensor([0.1, 0.9])}
    dropped = drop_conditions(batch.conditions, uniforms, DropoutConfig(expression=0.2))
    without = predict(model, batch._replace(conditions=batch.conditions._replace(expression=None)))
    found, whole = predict(model, batch._replace(conditions=dropped)), predict(model, batch)
    assert torch.equal(found[0], without[0])
    assert torch.equal(found[1], whole[1])
    assert not torch.allclose(found[1], without[1], atol=1e-3)
    drawn = step_randomness(0, 0, range(4000), (1, 1, 1, 1)).dropout_uniform
    kept = (torch.stack([drawn[name] for name in ("reference", "audio", "prompt", "expression")], dim=1) >= 0.2).float()
    assert kept[:, 3].mean().item() == pytest.approx(0.8, abs=0.02)
    assert torch.corrcoef(kept.T)[3, :3].abs().max() < 0.05, "independent of the others"


def test_parameter_counts_of_augmentations_can_be_matched(portrait: Portrait):
    counts = {}
    for name, changes in {
        "none": {"augmentation": "none"},
        "wide": {"augmentation": "none", "match_parameters_of": "emotion_and_mouth"},
        "published": {"augmentation": "emotion_and_mouth", "match_parameters_of": "emotion_and_mouth"},
    }.items():
        config = portrait(name, **{f"stage__expression__{key}": value for key, value in changes.items()})
        model, origin = build_model(config, torch.float32)
        counts[name] = sum(value.numel() for n, value in model.named_parameters() if n in origin.trained_names)
        assert model.expression_projector is not None
        assert len(model.expression_projector.learned) == (0 if name != "published" else 2)
    assert counts["wide"] == pytest.approx(counts["published"], rel=0.002)
    assert counts["none"] < 0.5 * counts["published"]
    with pytest.raises(InputError, match="choose an augmentation with more learned tokens"):
        portrait("bad", stage__expression__augmentation="all", stage__expression__match_parameters_of="none")


def saved_pipeline(folder: Path, base: Path) -> Path:
    """The part of a saved pipeline that training reads, with audio weights that differ from initial ones."""
    torch.manual_seed(11)
    load_from_wan(base, asdict(load_model_config("nano").portrait)).save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text("{}")
    return folder


def test_training_starts_from_a_saved_pipeline_an_adapter_or_released_weights(
    portrait: Portrait, base: Path, tmp_path: Path
):
    pipeline = saved_pipeline(tmp_path / "pipeline", base)
    audio = load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")["audio_projector.proj.weight"]
    first = Trainer(portrait("first", base=pipeline, stage__init_from=pipeline)).train()
    described, tensors = read_adapter(first)
    assert described.modules == ["expression"] and described.on_saved and described.base == str(pipeline)
    model, _ = build_model(portrait("second", base=pipeline, stage__init_from=first), torch.float32)
    assert bit_equal({name: value for name, value in model.state_dict().items() if name in tensors}, tensors)
    assert torch.equal(model.audio_projector.proj.weight, audio), "of the saved pipeline, not initialized"
    with raises_input_error(ErrorCode.conflict, "base", str(base)):
        build_model(portrait("bare", stage__init_from=first), torch.float32)

    write_released_expression(tensors, tmp_path / "released.ckpt")
    config = portrait("third", stage__init_from=tmp_path / "released.ckpt")
    model, _ = build_model(config, torch.float32)
    assert bit_equal({name: value for name, value in model.state_dict().items() if name in tensors}, tensors)
    described, again = read_adapter(Trainer(config).train())
    assert described.expression["padding"] == "attended", "as the released weights were trained"
    assert not described.on_saved
    assert not bit_equal(again, tensors)
    with pytest.raises(InputError, match=r"'depth': 1.*'depth': 2"):
        build_model(portrait("deep", stage__init_from=first, base=pipeline, stage__expression__depth=2), torch.float32)


def test_a_float16_adapter_is_saved_and_loaded(portrait: Portrait):
    folder = Trainer(portrait(stage__expression__save_float16=True)).train()
    assert {value.dtype for value in read_adapter(folder)[1].values()} == {torch.float16}
    model, _ = build_model(portrait("next", stage__init_from=folder), torch.float32)
    assert model.expression_projector is not None
    assert model.expression_projector.norm.weight.dtype == torch.float32


def test_the_plan_counts_expression_parameters_and_people(portrait: Portrait):
    config = portrait()
    assert config.stage.expression is not None
    text = describe_plan(config)
    assert "bucket 64x64, 9 frames at 25 fps: 4 clips" in text
    assert "bucket 64x64, 9 frames at 25 fps, 2 people: 4 clips" in text
    # nano's 8 blocks of width 256
    count = projector_parameter_count(config.stage.expression.to_module_config()) + 8 * 2 * 256 * 24
    assert f"{count:,}" in text.split("expression ")[1].splitlines()[0]
    size = ClipSize(64, 64, 9, 25.0)
    assert activation_bytes(config, size) < activation_bytes(config, size._replace(people=2))


def test_stage_two_trains_on_two_speakers(configure: Configure, tmp_path: Path):
    manifest = make_driven_corpus(tmp_path / "corpus", audio=True)
    config = configure(manifest=manifest, stage__name="stage2", stage__alignment="frame", stage__loss__weight="lip")
    batch = PortraitCollator(config.collate_config())([PortraitDataset(manifest)[1]])
    assert batch.conditions.speaker_regions is not None and batch.conditions.speaker_regions.shape[1] == 2
    assert read_adapter(Trainer(config).train())[0].modules == ["audio", "face", "motion"]


def test_expressions_and_audio_of_several_people_train_together(portrait: Portrait, base: Path, tmp_path: Path):
    """As in configs/nano/people.yaml, audio besides: one adapter of both for a saved pipeline, with a LoRA."""
    manifest, pipeline = make_driven_corpus(tmp_path / "corpus", audio=True), saved_pipeline(tmp_path / "saved", base)
    people = load_config(TrainConfig, CONFIGS_FOLDER / "nano" / "people.yaml").stage
    changes = {
        "stage__trainable": f"[{','.join([*people.trainable, 'audio'])}]",
        "stage__lora__rank": 2,
        "stage__lora__target_modules": f"[{','.join(people.lora.target_modules)}]",
        "stage__dropout__audio": people.dropout.audio,
        "stage__expression__save_float16": True,
        "optimizer__type": "muon",
    }
    config = portrait(manifest=manifest, base=pipeline, stage__init_from=pipeline, **changes)
    fresh = build_model(config, torch.float32)[0].state_dict()
    folder = Trainer(config).train()
    described, tensors = read_adapter(folder)
    assert (described.modules, described.on_saved) == (["audio", "expression"], True)
    assert not any(torch.equal(value.float(), fresh[name].half().float()) for name, value in tensors.items())
    assert all(value.abs().max() > 0 for value in load_file(folder / "lora.safetensors").values())


def test_clips_without_expressions_raise(portrait: Portrait, corpus: Path):
    with pytest.raises(InputError, match="has no expression"):
        Trainer(portrait(manifest=corpus)).train()

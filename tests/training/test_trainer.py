"""Whole runs on a tiny corpus: golden losses, resuming, learning, files and errors."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from safetensors.torch import load_file, save_file

from fantasytalking.checkpoints.adapter import load_adapter, read_adapter
from fantasytalking.checkpoints.released_audio import to_released_audio, write_released_audio
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.cpu.attention import MatmulPortraitAttnProcessor, MatmulSelfAttnProcessor
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from fantasytalking.training.checkpointer import CheckpointManager
from fantasytalking.training.config import OptimizerType, TrainConfig, ValidationConfig
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.trainer import Trainer, ValidationResult
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.run_artifacts import (
    bit_equal,
    corpus_loss,
    load_adapter_tensors,
    load_checkpoint_tensors,
    read_log,
    read_losses,
    step_on_second_device,
)
from tests.training.tiny_corpus import make_corpus

STAGE2 = {"stage__name": "stage2", "stage__alignment": "frame", "stage__loss__weight": "lip"}

GOLDEN = {
    "stage1": [2.412675, 2.344567, 2.488846, 2.257642, 2.287937, 2.337069, 2.166238, 2.251410, 2.252807, 2.231636],
    "stage2": [0.375957, 1.418132, 0.377299, 0.321029, 0.381087, 0.343434, 1.310901, 1.308424, 1.381356, 0.343729],
}
"""Losses of the first ten steps. They change only when what is computed changes."""


def run(config: TrainConfig, **arguments: object) -> Path:
    return Trainer(config, **arguments).train()  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", [{}, STAGE2], ids=["stage1", "stage2"])
def test_ten_steps_give_the_golden_losses(configure: Configure, stage: dict[str, str], request: pytest.FixtureRequest):
    config = configure(stage__steps=10, checkpoints__interval=10, **stage)
    run(config)
    assert read_losses(config.output) == pytest.approx(GOLDEN[config.stage.name], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"optimizer__ema_decay": 0.9, "gradient_accumulation_steps": 2, "batch_size": 1, **STAGE2},
        {"optimizer__type": OptimizerType.muon},
    ],
)
def test_two_steps_then_resumed_to_four_equal_four(configure: Configure, changes: dict[str, object]):
    straight = configure("straight", stage__steps=4, **changes)
    run(straight)
    run(configure("resumed", stage__steps=2, **changes))
    resumed = configure("resumed", stage__steps=4, **changes)
    run(resumed)
    assert bit_equal(load_checkpoint_tensors(resumed.output, 4), load_checkpoint_tensors(straight.output, 4))
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))
    assert read_losses(resumed.output) == read_losses(straight.output)


@pytest.mark.parametrize(
    "stage", [pytest.param({}, marks=pytest.mark.slow, id="stage1"), pytest.param(STAGE2, id="stage2")]
)
def test_twenty_steps_lower_the_loss(configure: Configure, stage: dict[str, str]):
    config = configure(stage__steps=20, batch_size=8, checkpoints__interval=20, optimizer__learning_rate=3e-3, **stage)
    fresh, _ = build_model(config, torch.float32)
    before = corpus_loss(fresh, config)
    folder = run(config)
    load_adapter(fresh, folder)
    after = corpus_loss(fresh, config)
    assert after < 0.97 * before


def test_stage_two_starts_from_stage_one(configure: Configure):
    first = run(configure("one"))
    config = configure("two", stage__init_from=first, **STAGE2)
    model, _ = build_model(config, torch.float32)
    stage1 = load_adapter_tensors(Path(config.output).parent / "one")
    assert bit_equal({name: value for name, value in model.state_dict().items() if name in stage1}, stage1)
    second = run(config)
    described, tensors = read_adapter(second)
    assert described.modules == ["audio", "face", "motion"]
    assert described.extra["stage"] == "stage2"
    assert not bit_equal(tensors, stage1)


def test_accumulation_is_exact(configure: Configure):
    whole, split = (
        configure(f"{batch}", batch_size=batch, gradient_accumulation_steps=4 // batch, stage__steps=4)
        for batch in (4, 1)
    )
    run(whole)
    run(split)
    for name in ("loss", "gradient_norm"):
        found = [line[name] for line in read_log(split.output)]
        assert found == pytest.approx([line[name] for line in read_log(whole.output)], rel=1e-4)


def test_a_run_resumes_with_another_accumulation(configure: Configure):
    run(configure("straight", batch_size=2, stage__steps=6))
    run(configure("split", batch_size=2, stage__steps=3))
    run(configure("split", batch_size=1, gradient_accumulation_steps=2, stage__steps=6))
    for name in ("loss", "gradient_norm"):
        found, straight = ([line[name] for line in read_log(configure(run).output)] for run in ("split", "straight"))
        assert found == pytest.approx(straight, rel=1e-4)


def test_gradient_checkpointing_changes_nothing(configure: Configure):
    kept, computed_again = configure("kept"), configure("again", gradient_checkpointing=True)
    run(kept)
    run(computed_again)
    assert read_losses(computed_again.output) == read_losses(kept.output)
    for name, value in load_adapter_tensors(kept.output).items():
        torch.testing.assert_close(load_adapter_tensors(computed_again.output)[name], value)


def test_the_attention_backend_does_not_change_the_losses(configure: Configure):
    default, named = configure("default"), configure("named", attention_backend="_native_math")
    run(default)
    try:
        run(named)
    finally:
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
    assert read_losses(named.output) == pytest.approx(read_losses(default.output), rel=1e-4)


def test_bf16_on_a_cpu_uses_matmul_attention_unless_a_backend_is_set(configure: Configure):
    steps = {}
    for name, attention in (("products", "null"), ("native", "native")):
        config = configure(name, attention_backend=attention, mixed_precision="bf16")
        trainer = Trainer(config)
        blocks = trainer.accelerator.unwrap_model(trainer.model).blocks
        assert all(isinstance(b.attn2.processor, MatmulPortraitAttnProcessor) == (attention == "null") for b in blocks)
        assert all(isinstance(b.attn1.processor, MatmulSelfAttnProcessor) == (attention == "null") for b in blocks)
        trainer.train()
        steps[name] = read_losses(config.output)
    assert steps["products"] == pytest.approx(steps["native"], rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_give_the_same_losses_and_resume(configure: Configure):
    steps = {"stage__steps": 4, "checkpoints__interval": 2, "mixed_precision": "bf16"}
    plain, straight = configure("plain", **steps), configure("compiled", compile=True, **steps)
    run(plain)
    run(straight)
    assert read_losses(straight.output) == pytest.approx(read_losses(plain.output), rel=0.02)
    assert load_adapter_tensors(straight.output).keys() == load_adapter_tensors(plain.output).keys()
    run(configure("resumed", compile=True, **steps | {"stage__steps": 2}))
    resumed = configure("resumed", compile=True, **steps)
    run(resumed)
    assert bit_equal(load_checkpoint_tensors(resumed.output, 4), load_checkpoint_tensors(straight.output, 4))


def test_a_missing_compiler_raises(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = configure(compile=True)
    with raises_input_error(ErrorCode.unsupported, "compile", True) as caught:
        run(config)
    assert "no-such-compiler" in str(caught.value)


def test_an_unknown_attention_backend_raises(configure: Configure):
    with raises_input_error(ErrorCode.invalid_choice, "attention_backend", "nativ"):
        run(configure(attention_backend="nativ"))


def test_files_of_a_run(configure: Configure):
    config = configure(stage__steps=5, checkpoints__interval=1, checkpoints__keep_last_n=2)
    run(config)
    output = Path(config.output)
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    assert sorted(path.name for path in (output / "adapter").iterdir()) == [
        "adapter.safetensors",
        "config.json",
        "train.yaml",
    ]
    described, _ = read_adapter(output / "adapter")
    assert (described.modules, described.audio_window) == (["audio", "face", "motion"], "seconds")
    lines = read_log(output)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    for line in lines:
        filled = [value for value in line["loss_by_noise"] if value is not None]
        assert len(line["loss_by_noise"]) == 8
        assert 1 <= len(filled) <= config.batch_size
        for name in ("gradient_norm", "clips_per_second", "tokens_per_second", "memory_gib"):
            assert line[name] > 0
        assert line["tokens_per_second"] == pytest.approx(48 * line["clips_per_second"])


def test_masked_and_unmasked_clips_are_logged_separately(configure: Configure):
    run(configure("one", stage__steps=1))
    assert not {"loss_masked", "loss_unmasked"} & read_log(configure("one").output)[0].keys()
    for eta, missing in ((0.5, None), (0, "loss_unmasked"), (1, "loss_masked")):
        config = configure(f"two{eta}", stage__steps=1, batch_size=8, stage__loss__eta=eta, **STAGE2)
        run(config)
        (line,) = read_log(config.output)
        means = [line["loss_masked"], line["loss_unmasked"]]
        if missing:
            assert line[missing] is None and line["loss"] in means
            continue
        share = (line["loss"] - means[1]) / (means[0] - means[1])  # of the clips that are masked
        assert share * 8 == pytest.approx(round(share * 8), abs=1e-6) and 0 < share < 1
        assert means[0] < means[1], "the lips are a small part of all positions"


def test_the_adapter_has_the_motion_normalizer_of_its_clips(configure: Configure, tmp_path: Path):
    manifest = make_corpus(tmp_path / "corpus")
    prepared = MotionNormalizer(0.5, 2.0, 0.5, 2.0)
    prepared.save(manifest.parent / MOTION_NORMALIZER_FILE)
    one = run(configure("one", data__manifests=[str(manifest)], stage__steps=1))
    assert MotionNormalizer.load_if_present(one) == prepared
    fitted = configure("fitted", data__manifests=[str(manifest)], data__refit_motion_normalizer=True, stage__steps=1)
    # All clips of this corpus have a measure of 1, so they lie in the middle of constants that are fitted.
    trainer = Trainer(fitted)
    assert {(record.expression, record.body) for record in trainer.dataset.records} == {(0.5, 0.5)}
    assert MotionNormalizer.load_if_present(trainer.train()) == trainer.motion_normalizer != prepared
    with pytest.raises(InputError, match="another motion normalizer than"):
        run(configure("two", data__manifests=[str(manifest)], stage__init_from=str(fitted.output) + "/adapter"))


def test_the_frozen_base_neither_changes_nor_is_saved(configure: Configure):
    config = configure()
    before, _ = build_model(config, torch.float32)
    trainer = Trainer(config)
    trainer.train()
    trained = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    for name, value in before.named_parameters():
        if not value.requires_grad:
            assert torch.equal(trained[name], value), name
    assert not any(name.startswith("blocks.0.attn1") for name in load_checkpoint_tensors(config.output, 2))


def test_the_final_adapter_has_the_moving_average(configure: Configure):
    config = configure(stage__steps=3, stage__alignment="frame", optimizer__ema_decay=0.5)
    run(config)
    average = load_file(Path(config.output) / "checkpoints" / "step-00000003" / "average.safetensors")
    assert bit_equal(load_adapter_tensors(config.output), average)
    assert not bit_equal(load_adapter_tensors(config.output), load_checkpoint_tensors(config.output, 3))


def test_an_unreadable_clip_is_replaced_and_reported(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    manifest = make_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "features" / "clip003.safetensors").write_bytes(b"damaged")
    config = configure(manifest=manifest, stage__steps=4, data__max_unreadable_fraction=0.2)
    run(config)
    assert "clip 'clip003' cannot be read" in caplog.text
    progress = json.loads((Path(config.output) / "checkpoints" / "step-00000004" / "progress.json").read_text())
    assert list(progress["bad"]) == ["clip003"]
    make_corpus(tmp_path / "corpus")  # prepared again
    run(configure(manifest=manifest, stage__steps=5, data__max_unreadable_fraction=0.2))
    progress = json.loads((Path(config.output) / "checkpoints" / "step-00000005" / "progress.json").read_text())
    assert progress["bad"] == {}
    (tmp_path / "corpus" / "features" / "clip003.safetensors").write_bytes(b"damaged")
    with raises_input_error(ErrorCode.malformed_file, "data.max_unreadable_fraction", 1 / 8) as caught:
        run(configure("strict", manifest=manifest, stage__steps=4, data__max_unreadable_fraction=0))
    assert "clip003" in str(caught.value)


def test_one_unreadable_clip_of_a_small_corpus_does_not_stop_training(configure: Configure, tmp_path: Path):
    manifest = make_corpus(tmp_path / "corpus")
    features = tmp_path / "corpus" / "features"
    (features / "clip003.safetensors").write_bytes(b"damaged")
    run(configure("one", manifest=manifest, stage__steps=4))
    (features / "clip005.safetensors").write_bytes(b"damaged")
    with raises_input_error(ErrorCode.malformed_file, "data.max_unreadable_fraction", 2 / 8):
        run(configure("two", manifest=manifest, stage__steps=4))


def test_another_configuration_in_the_same_folder_raises(configure: Configure):
    run(configure())
    with raises_input_error(ErrorCode.conflict, "seed", 1):
        run(configure(seed=1, stage__steps=4))
    with raises_input_error(ErrorCode.out_of_range, "stage.steps", 1):
        run(configure(stage__steps=1))


def test_an_unwritable_folder_raises_before_the_first_step(configure: Configure, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with raises_input_error(ErrorCode.output_exists, "output", str(tmp_path / "file" / "run")):
        run(configure("file/run"))


def test_a_full_disk_raises_before_the_first_step(configure: Configure):
    config = configure(checkpoints__keep_last_n=1000)
    config.checkpoints.keep_last_n = 10**9
    with raises_input_error(ErrorCode.insufficient_resources, "output", config.output):
        run(config)
    assert not (Path(config.output) / "log.jsonl").exists()


def test_existing_checkpoints_need_no_more_space(tmp_path: Path):
    checkpoints = CheckpointManager(tmp_path, keep_last_n=2)
    assert checkpoints.required_bytes(100) == 300
    for step, size in ((1, 100), (2, 100)):
        checkpoints.partial_path(step).mkdir(parents=True)
        (checkpoints.partial_path(step) / "weights").write_bytes(b"x" * size)
        checkpoints.commit(step)
    assert checkpoints.required_bytes(100) == 100
    assert checkpoints.required_bytes(1000) == 2800
    assert checkpoints.required_bytes(10) == 10
    checkpoints.partial_path(3).mkdir()  # of a run that was killed while saving
    (checkpoints.partial_path(3) / "weights").write_bytes(b"x" * 60)
    assert checkpoints.required_bytes(100) == 40 and checkpoints.required_bytes(10) == 0


def test_a_checkpoint_of_another_parallelism_raises(configure: Configure):
    config = configure(checkpoints__interval=2)
    run(config)
    (checkpoint,) = (Path(config.output) / "checkpoints").iterdir()
    recorded = json.loads((checkpoint / "progress.json").read_text())
    assert recorded["layout"] == "one process or DDP"
    (checkpoint / "progress.json").write_text(json.dumps({**recorded, "layout": "ZeRO-2 on 8 processes"}))
    with raises_input_error(ErrorCode.conflict, "layout", "ZeRO-2 on 8 processes"):
        run(configure(stage__steps=4))
    del recorded["layout"]
    (checkpoint / "progress.json").write_text(json.dumps(recorded))
    run(configure(stage__steps=4))


def test_a_damaged_checkpoint_raises_in_one_line(configure: Configure):
    config = configure(checkpoints__interval=2)
    run(config)
    (checkpoint,) = (Path(config.output) / "checkpoints").iterdir()
    for name, contents in (("optimizer.bin", (b"\x80\x02X\xff", None)), ("trained.safetensors", (None,))):
        intact = (checkpoint / name).read_bytes()
        for content in (intact[:-200] if content is None else content for content in contents):
            (checkpoint / name).write_bytes(content)
            with raises_input_error(ErrorCode.malformed_file, "checkpoint", str(checkpoint)) as error:
                run(configure(stage__steps=4))
            assert "\n" not in str(error.value)
        (checkpoint / name).write_bytes(intact)


def test_validation_is_called_with_the_model_and_a_folder(configure: Configure, tmp_path: Path):
    seen = []

    def sample(
        model: torch.nn.Module, config: ValidationConfig, folder: Path | None, dtype: torch.dtype | None
    ) -> ValidationResult:
        assert dtype is None, "the model casts by itself"
        seen.append((model.training, torch.is_grad_enabled(), config.prompt, folder))
        return ValidationResult({"opening": 0.5}, None)

    changes = {"validation__interval": 2, "validation__image": "p.png", "validation__audio": "a.wav"}
    config = configure(stage__steps=4, **changes)
    run(config, validation_sampler=sample)
    folders = [Path(config.output) / "validation" / f"step-{step:08d}" for step in (2, 4)]
    assert seen == [(False, False, config.validation.prompt, folder) for folder in folders]
    plain = configure("plain", stage__steps=4)
    run(plain)
    assert bit_equal(load_adapter_tensors(plain.output), load_adapter_tensors(config.output))
    with raises_input_error(ErrorCode.unsupported, "validation.interval", 2):
        run(configure("none", **changes))


@pytest.mark.parametrize(
    "stage", [{}, STAGE2, {**STAGE2, "stage__loss__normalization": "mask", "optimizer__type": "muon"}]
)
def test_a_step_runs_entirely_on_another_device(configure: Configure, stage: dict[str, str]):
    step_on_second_device(configure(stage__trainable="['*']", **stage))


def test_trackers_write_the_metrics(configure: Configure):
    config = configure(logging__trackers="[tensorboard]")
    run(config)
    events = list(Path(config.output).rglob("events.out.tfevents.*"))
    assert events
    assert b"loss_by_noise" in b"".join(path.read_bytes() for path in events)


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_missing_tracker_raises_before_the_first_step(
    configure: Configure, tracker: str, monkeypatch: pytest.MonkeyPatch
):
    config = configure(logging__trackers=f"[{tracker}]")
    for name in (tracker, "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it cannot be imported
    with raises_input_error(ErrorCode.unsupported, "logging.trackers", tracker):
        run(config)
    assert not Path(config.output, "log.jsonl").exists()


def test_a_lora_is_trained_saved_and_trained_further(configure: Configure):
    lora = {"stage__lora__rank": 4, "stage__lora__alpha": 8, "stage__lora__target_modules": "[attn1.to_q,attn1.to_v]"}
    first = run(configure("one", **lora))
    described, _ = read_adapter(first)
    assert described.lora == {"rank": 4, "alpha": 8.0, "targets": ["attn1.to_q", "attn1.to_v"]}
    start = load_file(first / "lora.safetensors")
    assert all(start[name].abs().max() > 0 for name in start)
    save_file({name: value.half() for name, value in start.items()}, first / "lora.safetensors")

    second = run(configure("two", stage__init_from=first, **STAGE2))
    assert read_adapter(second)[0].lora == described.lora
    assert not bit_equal(load_file(second / "lora.safetensors"), start)
    assert all(value.dtype == torch.float32 for value in load_file(second / "lora.safetensors").values())
    with raises_input_error(ErrorCode.conflict, "stage.lora", 8):
        run(configure("three", stage__init_from=first, **{**lora, "stage__lora__rank": 8}))


def test_a_trained_base_is_kept_by_the_next_stage(configure: Configure):
    first = run(configure("one", stage__trainable="['*']"))
    start = load_file(first / "base.safetensors")
    assert read_adapter(first)[0].base_tensors == len(start) > 50
    second = run(configure("two", stage__init_from=first, **STAGE2))
    assert bit_equal(load_file(second / "base.safetensors"), start)


def test_training_starts_from_the_released_audio_weights(configure: Configure, tmp_path: Path):
    fresh, _ = build_model(configure(), torch.float32)
    audio = {name: value + 0.01 for name, value in fresh.state_dict().items() if adapter_module_of(name) == "audio"}
    positions = audio.pop("audio_projector.positions")
    write_released_audio(to_released_audio(audio), tmp_path / "released.safetensors")
    config = configure(stage__init_from=tmp_path / "released.safetensors", stage__trainable="[face]")
    described, tensors = read_adapter(run(config))
    assert described.modules == ["audio", "face"]
    assert bit_equal({name: value for name, value in tensors.items() if name in audio}, audio)
    assert torch.equal(tensors["audio_projector.positions"], torch.zeros_like(positions)), (
        "unknown to the released model"
    )
    with raises_input_error(ErrorCode.missing_file, "stage.init_from", str(tmp_path / "nothing")):
        run(configure("none", stage__init_from=tmp_path / "nothing"))

"""Stage 3: the teacher is the guided model, the student learns the straight line between its end points."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter, save_adapter
from fantasytalking.checkpoints.lora import lora_disabled
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, shift_sigmas
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler, set_timesteps
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.distillation import DistillationObjective, SegmentSample, sample_segments
from fantasytalking.training.losses import FlowMatchingObjective
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.objectives import OBJECTIVES, build_objective
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DistillationConfig, ObjectiveType
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import randomize_zero_init
from tests.training.conftest import Configure
from tests.training.run_artifacts import (
    bit_equal,
    load_adapter_tensors,
    load_checkpoint_tensors,
    read_losses,
    step_on_second_device,
)

STAGE3: dict[str, Any] = {
    "stage__name": "stage3",
    "stage__alignment": "frame",
    "stage__trainable": "[guidance]",
    "stage__dropout__reference": 0,
    "stage__dropout__audio": 0,
    "stage__dropout__prompt": 0,
    "stage__lora__rank": 4,
    "stage__lora__alpha": 4,
    "stage__distillation__num_windows": 2,
    "stage__distillation__teacher_steps_per_window": 2,
    "stage__distillation__flow_shift": 3,
    "stage__distillation__embedder_dim": 16,
}
GOLDEN = [2.660167, 3.062257, 0.837476, 2.116757, 2.284831, 0.706188, 0.573135, 1.241796, 2.642950, 1.097292]
"""Losses of the first ten steps. They change only when what is computed changes."""


@pytest.fixture(scope="module")
def stage2(tmp_path_factory: pytest.TempPathFactory, corpus: Path, base: Path) -> Path:
    """An adapter whose audio, face and motion have an effect, for a teacher."""
    torch.manual_seed(1)
    model = load_from_wan(base, asdict(load_model_config("nano").portrait))
    randomize_zero_init(model, 0.1)
    folder = tmp_path_factory.mktemp("teacher") / "adapter"
    save_adapter(model, folder, AdapterConfig(["audio", "face", "motion"], "seconds"))
    return folder


def batch_of(config: TrainConfig) -> TrainingBatch:
    dataset = PortraitDataset(*config.data.manifests)
    return PortraitCollator(config.collate_config())([dataset[i] for i in range(4)])


def student(config: TrainConfig) -> tuple[FantasyTalkingTransformer3DModel, DistillationConfig]:
    model, _ = build_model(config, torch.float32)
    assert config.stage.distillation is not None
    return model.eval(), config.stage.distillation


def away_from_its_start(model: FantasyTalkingTransformer3DModel) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("guidance_embedder.output"):
                parameter.normal_(std=0.1)


def test_the_teacher_equals_guided_sampling_by_the_pipeline(configure: Configure, stage2: Path):
    """The windows in sequence are a video of num_windows x teacher_steps_per_window steps with three branches."""
    config = configure(stage__init_from=stage2, **STAGE3)
    model, distillation = student(config)
    objective = DistillationObjective(distillation, config.stage.loss)
    away_from_its_start(model)
    batch = batch_of(configure("plain"))
    conditions = batch.conditions
    batch = batch_of(configure(stage__init_from=stage2, **STAGE3))
    conditions, scales = batch.conditions, torch.tensor([[5.0, 4.0]]).expand(4, 2)
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))

    teacher, _ = build_model(configure("teacher", stage__init_from=stage2, stage__alignment="frame"), torch.float32)
    scheduler = make_scheduler(SchedulerType.euler, 3.0)
    expected = noise
    with torch.no_grad():
        for timestep in set_timesteps(scheduler, 4, torch.device("cpu")):
            nothing, text, both = (
                teacher.eval()(expected, timestep.expand(4), branch).sample
                for branch in (
                    conditions._replace(
                        prompt_embeds=conditions.prompt_embeds * 0, condition_scale=torch.tensor([[0.0, 1.0]])
                    ),
                    conditions._replace(condition_scale=torch.tensor([[0.0, 1.0]])),
                    conditions,
                )
            )
            guided = nothing + 5 * (text - nothing) + 4 * (both - text)
            expected = scheduler.step(guided, timestep, expected, return_dict=False)[0]

        found = noise
        with lora_disabled(model):
            for start in (1.0, 0.5):
                segments = SegmentSample(torch.full((4,), start, dtype=torch.float64), torch.zeros(4), scales)
                found = objective.integrate_teacher(model, found, conditions, segments, torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_lora_and_guidance_scales_the_student_is_the_teacher(configure: Configure, stage2: Path):
    model, _ = student(configure(stage__init_from=stage2, **STAGE3))
    batch = batch_of(configure(stage__init_from=stage2, **STAGE3))

    def predicted() -> Tensor:
        with torch.no_grad():
            return model(batch.latents, torch.full((4,), 500.0), batch.conditions).sample

    before, trained = predicted(), [name for name, value in model.named_parameters() if value.requires_grad]
    away_from_its_start(model)
    assert not torch.equal(predicted(), before)
    with lora_disabled(model):
        assert torch.equal(predicted(), before)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == trained
    assert {name.split(".")[0] for name in trained if ".lora_" not in name} == {"guidance_embedder"}


def test_loss_is_the_distance_to_the_teacher_s_straight_line(configure: Configure, stage2: Path):
    config = configure(stage__init_from=stage2, **STAGE3)
    model, distillation = student(config)
    batch = batch_of(config)
    draws = step_randomness(0, 0, range(4), batch.latents.shape[1:])
    objective = DistillationObjective(distillation, config.stage.loss)
    found = objective.compute_loss(model, batch, draws, torch.float32)

    segments = sample_segments(draws, distillation)
    begin, end = shift_sigmas(segments.start, 3.0).float(), shift_sigmas(segments.start - 0.5, 3.0).float()
    expected = []
    for number in range(4):
        one, alone = slice(number, number + 1), batch.conditions
        alone = type(alone)(*(value[one] if isinstance(value, Tensor) else value for value in alone))
        first = (1 - begin[one]) * batch.latents[one] + begin[one] * draws.noise[one]
        part = SegmentSample(*(value[one] for value in segments))
        with torch.no_grad(), lora_disabled(model):
            last = objective.integrate_teacher(model, first, alone, part, torch.float32)
        fraction = segments.fraction[one].float()
        between, sigma = torch.lerp(first, last, fraction), torch.lerp(begin[one], end[one], fraction)
        with torch.no_grad():
            prediction = model(
                between, sigma * NUM_TRAIN_TIMESTEPS, alone._replace(guidance=segments.guidance_scales[one])
            ).sample
        expected.append((prediction - (first - last) / (begin[one] - end[one])).square().mean())
    torch.testing.assert_close(found.loss, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert ((end <= found.sigmas) & (found.sigmas <= begin)).all()


def test_a_step_runs_entirely_on_another_device(configure: Configure, stage2: Path):
    step_on_second_device(configure("elsewhere", stage__init_from=stage2, **STAGE3))


def test_segments_cover_windows_positions_and_scales():
    config = DistillationConfig(
        num_windows=4, window_start_fraction=0.25, text_guidance_range=[2.0, 6.0], audio_guidance_range=[1.0, 3.0]
    )
    segments = sample_segments(step_randomness(0, 0, range(4000), (1, 1, 1, 1)), config)
    for start in (0.25, 0.5, 0.75, 1.0):
        assert (segments.start == start).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (segments.fraction == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert segments.fraction[segments.fraction > 0].mean().item() == pytest.approx(0.5, abs=0.03)
    for column, (low, high) in enumerate(((2, 6), (1, 3))):
        scales = segments.guidance_scales[:, column]
        assert (low <= scales.min() < low + 0.1) and (high - 0.1 < scales.max() <= high)


def test_ten_steps_give_the_golden_losses_and_an_adapter_of_the_added_modules(configure: Configure, stage2: Path):
    config = configure(
        stage__init_from=stage2,
        stage__steps=10,
        checkpoints__interval=10,
        stage__distillation__save_float16=True,
        **STAGE3,
    )
    folder = Trainer(config).train()
    assert read_losses(config.output) == pytest.approx(GOLDEN, rel=1e-4)
    described, tensors = read_adapter(folder)
    assert described.modules == ["audio", "face", "motion", "guidance"]
    assert described.distillation == config.stage.distillation.to_spec().to_dict()
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    fresh, _ = build_model(configure("fresh", stage__alignment="frame"), torch.float32)
    load_adapter(fresh, folder)
    assert fresh.distillation == config.stage.distillation.to_spec()


def test_one_step_then_resumed_to_two_equals_two(configure: Configure, stage2: Path):
    changes = {"stage__init_from": stage2, "optimizer__ema_decay": 0.9, **STAGE3}
    straight = configure("straight", stage__steps=2, **changes)
    Trainer(straight).train()
    Trainer(configure("resumed", stage__steps=1, **changes)).train()
    resumed = configure("resumed", stage__steps=2, **changes)
    Trainer(resumed).train()
    assert bit_equal(load_checkpoint_tensors(resumed.output, 2), load_checkpoint_tensors(straight.output, 2))
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))
    assert read_losses(resumed.output) == read_losses(straight.output)


@pytest.mark.slow
def test_twenty_steps_lower_the_loss_at_window_starts(configure: Configure, stage2: Path):
    changes = {**STAGE3, "stage__distillation__window_start_fraction": 1.0, "stage__lora__rank": 8}
    config = configure(
        stage__init_from=stage2,
        stage__steps=20,
        batch_size=4,
        checkpoints__interval=20,
        optimizer__learning_rate=3e-3,
        **changes,
    )

    def loss(model: FantasyTalkingTransformer3DModel) -> float:
        batch, settings = batch_of(config), config.stage.distillation
        assert settings is not None
        draws = [step_randomness(0, 10**6 + repeat, range(4), batch.latents.shape[1:]) for repeat in range(4)]
        with torch.no_grad():
            objective = DistillationObjective(settings, config.stage.loss)
            found = [objective.compute_loss(model, batch, one, torch.float32).loss for one in draws]
        return torch.cat(found).mean().item()

    model, _ = student(config)
    before = loss(model)
    trainer = Trainer(config)
    trainer.train()
    assert loss(trainer.model.eval()) < 0.95 * before


@pytest.mark.parametrize(
    ("changes", "code", "field", "value"),
    [
        ({"stage__trainable": "[guidance,audio]"}, ErrorCode.conflict, "stage.trainable", ["guidance", "audio"]),
        ({"stage__lora__rank": 0}, ErrorCode.conflict, "stage.lora.rank", 0),
        ({"stage__init_from": "null"}, ErrorCode.missing_value, "stage.init_from", None),
        ({"stage__dropout__audio": 0.1}, ErrorCode.conflict, "stage.dropout.audio", 0.1),
        ({"stage__expression": "{}"}, ErrorCode.conflict, "stage.expression", None),
        (
            {"stage__distillation__text_guidance_range": "[7,1]"},
            *(ErrorCode.out_of_range, "stage.distillation.text_guidance_range", [7.0, 1.0]),
        ),
        ({"stage__objective": "flow_matching"}, ErrorCode.conflict, "stage.objective", "flow_matching"),
    ],
)
def test_settings_that_change_the_teacher_raise(
    configure: Configure, stage2: Path, changes: dict[str, Any], code: ErrorCode, field: str, value: object
):
    with raises_input_error(code, field, value):
        configure(**{"stage__init_from": stage2, **STAGE3, **changes})


def test_an_unknown_key_names_the_nearest_one(configure: Configure, stage2: Path):
    with pytest.raises(InputError, match="num_windows"):
        configure(**{"stage__init_from": stage2, **STAGE3, "stage__distillation__window": 3})


def test_the_objective_follows_the_distillation_settings_or_is_named(configure: Configure, stage2: Path):
    derived = configure(stage__init_from=stage2, **STAGE3)
    named = configure(stage__init_from=stage2, stage__objective="distillation", **STAGE3)
    assert configure().stage.resolved_objective is ObjectiveType.flow_matching
    for config in (derived, named):
        assert config.stage.resolved_objective is ObjectiveType.distillation
        assert isinstance(build_objective(config.stage), DistillationObjective)
    assert isinstance(build_objective(configure().stage), FlowMatchingObjective)
    with raises_input_error(ErrorCode.conflict, "stage.objective", "distillation"):
        configure(stage__objective="distillation")
    assert OBJECTIVES.keys() == set(ObjectiveType)


def test_a_teacher_with_a_lora_raises(configure: Configure, stage2: Path):
    first = Trainer(configure("first", stage__init_from=stage2, **STAGE3)).train()
    with raises_input_error(ErrorCode.conflict, "stage.init_from", str(first)):
        build_model(configure("second", **{**STAGE3, "stage__init_from": first}), torch.float32)

"""Loss on held-out clips: values, logging, and no effect on training."""

import json
from pathlib import Path

import pytest
import torch

from fantasytalking.audio_tokens import AudioEncoderSpec
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import PortraitCollator
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.holdout_loss import HOLDOUT_NOISE_STEP, HOLDOUT_SIGMAS, HoldoutLoss
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors
from tests.training.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two sizes."""
    return make_corpus(tmp_path_factory.mktemp("others"), clips=5, sizes=((64, 64), (96, 64)))


def lines(output: str) -> list[dict]:
    return [json.loads(line) for line in (Path(output) / "held_out.jsonl").read_text().splitlines()]


@torch.no_grad()
def test_errors_are_those_of_the_velocity_per_region(configure: Configure, others: Path):
    config = configure(holdout__interval=1, holdout__manifests=[str(others)], holdout__max_clips=1)
    model, _ = build_model(config, torch.float32)
    held_out = HoldoutLoss(config, None)
    (index,) = held_out._indices
    found = held_out.evaluate(model.eval(), torch.device("cpu"), torch.float32)

    batch = PortraitCollator(config.collate_config())([PortraitDataset(others)[index]])
    noise = step_randomness(config.seed, HOLDOUT_NOISE_STEP, [index], batch.latents.shape[1:]).noise
    for place, level in enumerate(HOLDOUT_SIGMAS):
        sigmas = torch.tensor([level])
        noisy = add_noise(batch.latents, noise, sigmas)
        velocity = model(noisy, sigmas * NUM_TRAIN_TIMESTEPS, batch.conditions, return_dict=False)[0]
        error = (velocity - (noise - batch.latents)).square().mean(dim=1, keepdim=True)
        lips = batch.lip_mask
        assert found["everywhere"][place] == pytest.approx(error.mean().item(), rel=1e-5)
        assert found["lips"][place] == pytest.approx(((error * lips).sum() / lips.sum()).item(), rel=1e-5)
        assert found["rest"][place] == pytest.approx(((error * (1 - lips)).sum() / (1 - lips).sum()).item(), rel=1e-5)


def test_clips_of_another_audio_encoder_are_refused(configure: Configure, others: Path):
    config = configure(holdout__interval=1, holdout__manifests=[str(others)])
    HoldoutLoss(config, None, AudioEncoderSpec("wav2vec2", 128, weights=(0.5,)))
    with raises_input_error(ErrorCode.conflict, "audio_encoder", "wav2vec2"):
        HoldoutLoss(config, None, AudioEncoderSpec("hubert", 128))


@pytest.mark.parametrize("precision", ["no", pytest.param("bf16", marks=pytest.mark.slow)])
def test_evaluation_does_not_change_training(configure: Configure, others: Path, precision: str):
    shown = {"holdout__manifests": [str(others)], "holdout__max_clips": 4, "mixed_precision": precision}
    plain = configure("plain", stage__steps=4, mixed_precision=precision)
    watched = configure("watched", stage__steps=4, holdout__interval=2, **shown)
    Trainer(plain).train()
    Trainer(watched).train()
    assert bit_equal(load_adapter_tensors(plain.output), load_adapter_tensors(watched.output))
    assert [line["step"] for line in lines(watched.output)] == [2, 4]
    first, second = lines(watched.output)
    assert first["sigmas"] == list(HOLDOUT_SIGMAS)
    assert first["everywhere"] != second["everywhere"], "another model"
    assert all(0 < value < 100 for part in ("everywhere", "lips", "rest") for value in second[part])


def test_a_resumed_run_logs_every_step_once(configure: Configure, others: Path):
    shown = {"holdout__interval": 1, "holdout__manifests": [str(others)], "holdout__max_clips": 2}
    whole = configure("whole", stage__steps=4, **shown)
    Trainer(whole).train()
    resumed = configure("resumed", stage__steps=3, checkpoints__interval=2, **shown)
    Trainer(resumed).train()
    (Path(resumed.output) / "checkpoints" / "step-00000003").rename(Path(resumed.output) / "elsewhere")
    longer = configure("resumed", stage__steps=4, checkpoints__interval=2, **shown)
    Trainer(longer).train()
    assert lines(resumed.output) == lines(whole.output)


@pytest.mark.parametrize(
    ("changes", "code", "field", "value"),
    [
        ({}, ErrorCode.missing_value, "holdout.manifests", []),
        ({"holdout__manifests": ["x"], "holdout__max_clips": 0}, ErrorCode.out_of_range, "holdout.max_clips", 0),
    ],
)
def test_missing_manifests_and_zero_clips_raise(
    configure: Configure, changes: dict, code: ErrorCode, field: str, value: object
):
    with raises_input_error(code, field, value):
        configure(holdout__interval=1, **changes)


def test_missing_clips_raise_before_the_first_step(configure: Configure, tmp_path: Path):
    config = configure(holdout__interval=1, holdout__manifests=[str(tmp_path / "none.jsonl")])
    with pytest.raises(InputError, match=r"none\.jsonl"):
        Trainer(config)


def test_holdout_loss_of_a_distilled_model_raises():
    with raises_input_error(ErrorCode.conflict, "holdout.interval", 1):
        load_config(TrainConfig, preset_path("nano", "stage3"), ["holdout.interval=1", "holdout.manifests=[x]"])

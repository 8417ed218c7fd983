"""Validation videos while a tiny model trains: they are made, they can be played, and training does not notice."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.config import load_config, preset_path
from fantasytalking.errors import InputError
from fantasytalking.media import probe, read_audio, read_image, read_video
from fantasytalking.models.presets import load_model_config
from fantasytalking.portrait_world.demo import FOLDER, PORTRAIT, SPEECH
from fantasytalking.train_command import run as run_command
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from fantasytalking.validation import SHEET, VIDEO, PortraitValidation
from tests import tiny_components
from tests.models.tiny import save_base
from tests.training import tiny_corpus
from tests.training.runs import adapter, losses, same
from tests.training.tiny_corpus import overrides

pytest.importorskip("mediapipe")

SHOWN = {
    "validation__every": 1,
    "validation__portrait": FOLDER / PORTRAIT,
    "validation__audio": FOLDER / SPEECH,
    "validation__seconds": 0.6,
    "validation__steps": 2,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base with all its encoders, and a corpus of features that are as wide as theirs."""
    base = tiny_components.build(tmp_path_factory.mktemp("whole"), load_model_config("nano").portrait.audio_dim)
    widths = {"text_dim": tiny_components.TEXT_DIM, "image_dim": tiny_components.IMAGE_DIM}
    save_base(base / "transformer", num_layers=2, **widths)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in widths.items():
            patch.setattr(tiny_corpus, name.upper(), value)
        manifest = tiny_corpus.make_corpus(tmp_path_factory.mktemp("features"))
    return {"base": base, "manifest": manifest}


def settings(folder: Path, places: dict[str, Path], **changes: object) -> list[str]:
    return overrides(folder, places["manifest"], places["base"], **changes)


def config_of(folder: Path, places: dict[str, Path], **changes: object) -> TrainConfig:
    return load_config(TrainConfig, None, settings(folder, places, **changes))


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "optimiser__ema_decay": 0.9}], ids=["fp32", "bf16"])
def test_every_step_leaves_a_video_and_a_contact_sheet(
    tmp_path: Path, places: dict[str, Path], changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "shown"
    chosen = settings(folder, places, **SHOWN, **changes, logging__trackers="[tensorboard,wandb]")
    monkeypatch.setattr(sys, "argv", ["train_stage1.py", *chosen])
    run_command("stage1", "about")
    for step in (1, 2):
        made = folder / "validation" / f"step-{step:08d}"
        video = read_video(made / VIDEO)
        assert video.frames.shape == (15, 64, 64, 3)
        assert len(read_audio(made / VIDEO)) / 16000 == pytest.approx(0.6, abs=0.05)
        assert probe(made / VIDEO).fps == 25
        assert read_image(made / SHEET).shape[2] == 3
    assert len(list(folder.rglob("wandb/**/media/videos/validation/video_*.mp4"))) == 2
    told = b"".join(path.read_bytes() for path in folder.rglob("events.out.tfevents.*"))
    assert b"validation/contact_sheet" in told and b"validation/face_seen" in told

    plain = load_config(TrainConfig, preset_path("nano", "stage1"), settings(tmp_path / "plain", places, **changes))
    Trainer(plain).train()
    assert losses(folder) == losses(plain.output)
    assert same(adapter(folder), adapter(plain.output))


def test_the_video_is_of_the_weights_as_they_stand(tmp_path: Path, places: dict[str, Path]):
    changes = {**SHOWN, "stage__trainable": "['*']", "optimiser__learning_rate": 0.1}
    config = config_of(tmp_path / "run", places, **changes)
    Trainer(config, PortraitValidation(config)).train()
    first, second = (
        read_video(tmp_path / "run" / "validation" / f"step-{step:08d}" / VIDEO).frames.astype(int) for step in (1, 2)
    )
    assert np.abs(first - second).mean() > 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"validation__portrait": "nobody.png"}, "image 'nobody.png' does not exist"),
        ({"validation__audio": FOLDER / PORTRAIT}, "sound"),
        ({"validation__infer": "none.yaml"}, "config 'none.yaml' does not exist"),
        ({"validation__seconds": 90}, "validation.seconds is 90"),
        ({"validation__seed": -1}, "validation.seed is -1"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_first_step(
    tmp_path: Path, places: dict[str, Path], changes: dict[str, object], told: str
):
    with pytest.raises(InputError, match=told):
        PortraitValidation(config_of(tmp_path / "run", places, **{**SHOWN, **changes}))
    assert not (tmp_path / "run").exists()


def test_a_base_without_encoders_is_told(tmp_path: Path, places: dict[str, Path]):
    alone = {**places, "base": places["base"] / "transformer"}
    with pytest.raises(InputError, match=r"has no vae; name a diffusers folder .* validation\.infer"):
        PortraitValidation(config_of(tmp_path / "run", alone, **SHOWN))

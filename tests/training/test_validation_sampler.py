"""Validation videos while a tiny model trains: they are made, they can be played, and training does not notice."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.audio_tokens import AudioEncoderSpec
from fantasytalking.cli import run as run_command
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.features import load_features, save_features
from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig, ExpressionNetwork
from fantasytalking.inference.validation_sampler import CONTACT_SHEET_FILE, VIDEO_FILE, PipelineValidationSampler
from fantasytalking.media import probe, read_audio, read_image, read_video, write_image, write_video
from fantasytalking.models.presets import load_model_config
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_PORTRAIT_FILE, DEMO_SPEECH_FILE
from fantasytalking.portrait_world.corpus.rendered_clip import PortraitRenderer
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import Trainer
from tests.helpers import tiny_components
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import run_in_fork
from tests.helpers.tiny_transformer import save_base
from tests.training import tiny_corpus
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, read_losses
from tests.training.test_distributed import launch
from tests.training.tiny_corpus import config_overrides

pytest.importorskip("mediapipe")

SHOWN = {
    "validation__interval": 1,
    "validation__image": DEMO_FOLDER / DEMO_PORTRAIT_FILE,
    "validation__audio": DEMO_FOLDER / DEMO_SPEECH_FILE,
    "validation__max_seconds": 0.6,
    "validation__num_inference_steps": 2,
}

BRIEF = {"validation__max_seconds": 0.2, "validation__num_inference_steps": 1}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base with all its encoders, and a corpus of features that are as wide as theirs."""
    base = tiny_components.build_components(
        tmp_path_factory.mktemp("whole"), load_model_config("nano").portrait.audio_dim
    )
    widths = {"text_dim": tiny_components.TEXT_DIM, "image_dim": tiny_components.IMAGE_DIM}
    save_base(base / "transformer", num_layers=2, **widths)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in widths.items():
            patch.setattr(tiny_corpus, name.upper(), value)
        manifest = tiny_corpus.make_corpus(tmp_path_factory.mktemp("features"))
        driven = tiny_corpus.make_driven_corpus(tmp_path_factory.mktemp("driven"))
    return {"base": base, "manifest": manifest, "driven": driven}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """two.png: two people; one.mp4 and other.mp4: somebody talks; encoder: what reads them; wide: of other sizes."""
    folder = tmp_path_factory.mktemp("given")
    pair = [PortraitRenderer(make_identity(identity), 96).portrait()[:, 16:80] for identity in (3, 8)]
    write_image(folder / "two.png", np.concatenate(pair, axis=1))
    for name, identity, count in (("one", 8, 14), ("other", 3, 12)):
        sitter = PortraitRenderer(make_identity(identity), 96)
        states = [FaceState(mouth_open=0.3 + 0.3 * np.sin(number), yaw=0.02 * number) for number in range(count)]
        write_video(folder / f"{name}.mp4", [sitter.frame(state) for state in states], fps=25)
    for name, dims in (("encoder", [2, 2, 3, 4]), ("wide", [2, 2, 3, 5])):
        config = ExpressionEncoderConfig(dims, size=16, channels=[8, 8], hidden=8)
        ExpressionEncoder(ExpressionNetwork(config)).save_pretrained(folder / name)
    return folder


def settings(folder: Path, places: dict[str, Path], **changes: object) -> list[str]:
    return config_overrides(folder, places["manifest"], places["base"], **changes)


def config_of(folder: Path, places: dict[str, Path], **changes: object) -> TrainConfig:
    return load_config(TrainConfig, None, settings(folder, places, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp", "zero3"])
def test_sharded_processes_make_the_video_of_a_base_that_trains(tmp_path: Path, places: dict[str, Path], config: str):
    """Its weights are float32 and it computes in bf16."""
    changes = {"mixed_precision": "bf16", "stage__trainable": "['*']", "stage__steps": 1, "checkpoints__interval": 1}
    options = settings(tmp_path / "run", places, **changes, **SHOWN)
    launch(options, tmp_path, f"{config}.yaml", 2, str(Path(__file__).parent / "cpu_sharding.py"))
    assert read_video(tmp_path / "run" / "validation" / "step-00000001" / VIDEO_FILE).frames.std() > 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer__ema_decay": 0.9}, id="fp32"),
        pytest.param({"mixed_precision": "bf16", "optimizer__ema_decay": 0.9}, marks=pytest.mark.slow, id="bf16"),
    ],
)
def test_every_step_leaves_a_video_and_a_contact_sheet(
    tmp_path: Path, places: dict[str, Path], changes: dict[str, object]
):
    folder = tmp_path / "shown"
    chosen = settings(folder, places, **SHOWN, **changes, logging__trackers="[tensorboard,wandb]")
    # Weights & Biases is imported there: after all else that tests import, this takes seconds.
    run_in_fork(run_command, ["train", "--config", "configs/nano/stage1.yaml", *chosen])
    for step in (1, 2):
        made = folder / "validation" / f"step-{step:08d}"
        video = read_video(made / VIDEO_FILE)
        assert video.frames.shape == (15, 64, 64, 3)
        assert len(read_audio(made / VIDEO_FILE)) / 16000 == pytest.approx(0.6, abs=0.05)
        assert probe(made / VIDEO_FILE).fps == 25
        assert read_image(made / CONTACT_SHEET_FILE).shape[2] == 3
    assert len(list(folder.rglob("wandb/**/media/videos/validation/video_*.mp4"))) == 2
    (recorded,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert recorded.name == f"run-{(folder / 'wandb_id.txt').read_text().strip()}.wandb"
    assert "optimizer.learning_rate" in (recorded.parent / "logs" / "debug.log").read_text()
    told = b"".join(path.read_bytes() for path in folder.rglob("events.out.tfevents.*"))
    assert b"validation/contact_sheet" in told and b"validation/face_seen" in told

    plain = load_config(TrainConfig, preset_path("nano", "stage1"), settings(tmp_path / "plain", places, **changes))
    Trainer(plain).train()
    assert read_losses(folder) == read_losses(plain.output)
    assert bit_equal(load_adapter_tensors(folder), load_adapter_tensors(plain.output))


def test_the_video_is_of_the_weights_as_they_stand(tmp_path: Path, places: dict[str, Path]):
    changes = {**SHOWN, **BRIEF, "stage__trainable": "['*']", "optimizer__learning_rate": 0.1}
    config = config_of(tmp_path / "run", places, **changes)
    Trainer(config, PipelineValidationSampler(config)).train()
    first, second = (
        read_video(tmp_path / "run" / "validation" / f"step-{step:08d}" / VIDEO_FILE).frames.astype(int)
        for step in (1, 2)
    )
    assert np.abs(first - second).mean() > 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"validation__image": "nobody.png"}, "image 'nobody.png' does not exist"),
        ({"validation__audio": DEMO_FOLDER / DEMO_PORTRAIT_FILE}, "cannot be decoded"),
        ({"validation__infer_config": "none.yaml"}, "config 'none.yaml' does not exist"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_first_step(
    tmp_path: Path, places: dict[str, Path], changes: dict[str, object], told: str
):
    with pytest.raises(InputError, match=told):
        PipelineValidationSampler(config_of(tmp_path / "run", places, **{**SHOWN, **changes}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("field", "value"), [("validation.max_seconds", 90.0), ("validation.seed", -1)])
def test_validation_settings_out_of_range_raise(tmp_path: Path, places: dict[str, Path], field: str, value: float):
    with raises_input_error(ErrorCode.out_of_range, field, value):
        config_of(tmp_path / "run", places, **{**SHOWN, field.replace(".", "__"): value})


def test_clips_of_another_audio_encoder_are_refused(tmp_path: Path, places: dict[str, Path]):
    manifest = tiny_corpus.make_corpus(tmp_path / "corpus", clips=1)
    path = manifest.parent / "features" / "clip000.safetensors"
    features = load_features(path)
    save_features(replace(features, audio_encoder=AudioEncoderSpec("hubert", features.audio.shape[1])), path, "test")
    with raises_input_error(ErrorCode.conflict, "audio_encoder", "wav2vec2"):
        PipelineValidationSampler(config_of(tmp_path, {**places, "manifest": manifest}, **SHOWN))


def test_a_base_without_encoders_is_told(tmp_path: Path, places: dict[str, Path]):
    alone = {**places, "base": places["base"] / "transformer"}
    with pytest.raises(InputError, match=r"has no vae; name a diffusers folder .* validation\.infer"):
        PipelineValidationSampler(config_of(tmp_path / "run", alone, **SHOWN))


def driven_by(given: Path, places: dict[str, Path], **changes: object) -> tuple[dict[str, Path], dict[str, object]]:
    """A portrait stage whose validation shows two people, each driven by a video."""
    shown: dict[str, object] = {
        **tiny_corpus.PORTRAIT_STAGE,
        **SHOWN,
        **BRIEF,
        "validation__max_seconds": 0.6,
        "stage__init_from": "null",
        "optimizer__type": "adamw",
        "optimizer__ema_decay": 0,
        "validation__image": given / "two.png",
        "validation__audio": "null",
        "validation__driving_videos": [str(given / "one.mp4"), str(given / "other.mp4")],
        "validation__expression_encoder": given / "encoder",
    }
    return {**places, "manifest": places["driven"]}, {**shown, **changes}


def shown_at(folder: Path, step: int) -> np.ndarray:
    return read_video(folder / "validation" / f"step-{step:08d}" / VIDEO_FILE).frames.astype(int)


def test_faces_are_driven_by_videos(tmp_path: Path, places: dict[str, Path], given: Path):
    folder = tmp_path / "shown"
    places, changes = driven_by(given, places, optimizer__learning_rate=0.1)
    run_command(["train", "--config", "configs/nano/portrait.yaml", *settings(folder, places, **changes)])
    video = folder / "validation" / "step-00000002" / VIDEO_FILE
    assert probe(video).frames == 12 and not probe(video).has_audio, "as long as the shorter driver"
    assert read_image(video.with_name(CONTACT_SHEET_FILE)).shape[2] == 3
    # The expression alone trains, so whatever changes came from the drivers.
    assert (shown_at(folder, 1) != shown_at(folder, 2)).mean() > 0.1

    chosen = settings(tmp_path / "plain", places, **{**changes, "validation__interval": 0})
    plain = load_config(TrainConfig, preset_path("nano", "portrait"), chosen)
    Trainer(plain).train()
    assert read_losses(folder) == read_losses(plain.output)
    assert bit_equal(load_adapter_tensors(folder), load_adapter_tensors(plain.output))


def test_one_is_driven_and_talks_and_without_drivers_the_expression_changes_nothing(
    tmp_path: Path, places: dict[str, Path], given: Path
):
    alone = {
        "validation__image": DEMO_FOLDER / DEMO_PORTRAIT_FILE,
        "validation__max_seconds": 0.2,
        "mixed_precision": "bf16",
    }
    places, changes = driven_by(given, places, optimizer__learning_rate=0.1, **alone)
    both = {"validation__driving_videos": [str(given / "one.mp4")], "validation__audio": DEMO_FOLDER / DEMO_SPEECH_FILE}
    for name, changed in (("both", both), ("heard", {**both, "validation__driving_videos": "[]"})):
        config = config_of(tmp_path / name, places, **{**changes, **changed})
        Trainer(config, PipelineValidationSampler(config)).train()
    assert probe(tmp_path / "both" / "validation" / "step-00000002" / VIDEO_FILE).has_audio
    assert (shown_at(tmp_path / "both", 1) != shown_at(tmp_path / "both", 2)).mean() > 0.1
    assert (shown_at(tmp_path / "heard", 1) == shown_at(tmp_path / "heard", 2)).all()


def test_the_encoder_in_the_base_reads_the_drivers(tmp_path: Path, places: dict[str, Path], given: Path):
    places, changes = driven_by(given, places, validation__expression_encoder="null")
    shutil.copytree(places["base"], tmp_path / "base")
    shutil.copytree(given / "encoder", tmp_path / "base" / "expression_encoder")
    sample = PipelineValidationSampler(config_of(tmp_path / "run", {**places, "base": tmp_path / "base"}, **changes))
    assert [len(driver.features) for driver in sample.speakers.driving_expressions] == [14, 12]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"validation__driving_videos": "[nowhere.mp4,nowhere.mp4]"}, "driving video 'nowhere.mp4' does not exist"),
        (
            {"validation__expression_encoder": "null"},
            "no expression encoder .* validation.expression_encoder=",
        ),
        ({"validation__expression_encoder": "./none"}, "'./none' does not exist"),
        (
            {"validation__expression_encoder": "WIDE"},
            r"returns \[2, 2, 3, 5\] .*dims is \[2, 2, 3, 4\]",
        ),
        (
            {"validation__image": DEMO_FOLDER / DEMO_PORTRAIT_FILE},
            "1 face was found in the image and 2 are needed",
        ),
        (
            {"validation__driving_videos": f"[{DEMO_FOLDER / DEMO_SPEECH_FILE},{DEMO_FOLDER / DEMO_SPEECH_FILE}]"},
            "has no video track",
        ),
        (
            {"validation__audio": DEMO_FOLDER / DEMO_SPEECH_FILE, "validation__max_seconds": 1},
            "lasts 0.56 s, the audio 1.00 s; give a longer driving video",
        ),
    ],
)
def test_what_cannot_drive_is_told_before_the_first_step(
    tmp_path: Path, places: dict[str, Path], given: Path, changes: dict[str, object], told: str
):
    changes = {key: given / "wide" if value == "WIDE" else value for key, value in changes.items()}
    places, changes = driven_by(given, places, **changes)
    with pytest.raises(InputError, match=told) as error:
        PipelineValidationSampler(config_of(tmp_path / "run", places, **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_faces_need_a_driver_and_driving_videos_an_expression_condition(
    tmp_path: Path, places: dict[str, Path], given: Path
):
    places, changes = driven_by(given, places)
    with raises_input_error(ErrorCode.missing_value, "validation.audio"):
        config_of(tmp_path / "run", places, **{**changes, "validation__driving_videos": "[]"})
    with raises_input_error(
        ErrorCode.conflict, "validation.driving_videos", [str(given / "one.mp4"), str(given / "other.mp4")]
    ):
        config_of(tmp_path / "run", places, **{**changes, "stage__expression": "null"})

"""Checks that a run's model reads the audio tokens of its clips, and keeps which encoder made them."""

import json
from pathlib import Path

from fantasytalking.audio_tokens import AudioEncoderSpec, check_same_encoder
from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.audio_loading import read_audio_encoder_spec
from fantasytalking.models.presets import load_model_config
from fantasytalking.training.config import TrainConfig

AUDIO_ENCODER_FILE = "audio_encoder.json"
"""File in the folder of a run that describes the audio encoder of its clips."""


def save_corpus_encoder(found: AudioEncoderSpec | None, run: Path) -> None:
    """Writes the description of a run's audio encoder to its folder, atomically; nothing where it is unknown."""
    if found is not None:
        with atomic_write(run / AUDIO_ENCODER_FILE) as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")


def load_corpus_encoder(run: Path) -> AudioEncoderSpec | None:
    """Reads the description in the folder of a run; None: the run has none, as those of earlier releases.

    Raises:
        InputError: the file is not such JSON.
    """
    path = run / AUDIO_ENCODER_FILE
    return AudioEncoderSpec.from_dict(read_json(path), str(path)) if path.is_file() else None


def check_corpus_audio_encoder(config: TrainConfig, found: AudioEncoderSpec | None) -> None:
    """Checks the audio encoder of the clips against the model's size and against the initial weights.

    Args:
        found: encoder of the clips; None: unknown.

    Raises:
        InputError: the model reads tokens of another width, or the initial weights were trained on another encoder.
    """
    if found is None:
        return
    expected_dim = load_model_config(config.model).portrait.audio_dim
    if found.dim != expected_dim:
        raise InputError(
            f"the clips have audio tokens of {found}, but portrait.audio_dim of model '{config.model}' is "
            f"{expected_dim}; prepare them with another audio_encoder, or give a model.yaml with that audio_dim",
            code=ErrorCode.shape_mismatch,
            field="audio_dim",
            value=found.dim,
        )
    initial = _initial_audio_encoder(config, expected_dim)
    if initial is not None:
        check_same_encoder(
            found,
            initial,
            "the audio tokens of data.manifests are those of",
            f"on which stage.init_from '{config.stage.init_from}' was trained: prepare the clips with it",
        )


def _initial_audio_encoder(config: TrainConfig, audio_dim: int) -> AudioEncoderSpec | None:
    """The encoder on which the initial weights were trained; None where they have not been trained on audio.

    Weights that do not exist are reported when they are loaded.
    """
    init_from = config.stage.init_from
    path = None if init_from is None else Path(resolve_local(init_from))
    if path is None or not path.exists():
        return None
    if (path / "model_index.json").is_file():
        has_encoder = (path / "audio_encoder").is_dir()  # training reads the transformer alone
        return read_audio_encoder_spec(path, "audio_encoder") if has_encoder else None
    if path.is_dir():
        adapter = read_adapter_config(path)
        is_trained_on_audio = adapter.audio_encoder is not None or "audio" in adapter.modules
        return adapter.audio_encoder_spec(audio_dim) if is_trained_on_audio else None
    # A file has the released audio weights or, where an expression condition trains, perhaps the portrait weights.
    return AudioEncoderSpec.unrecorded(audio_dim) if config.stage.expression is None else None

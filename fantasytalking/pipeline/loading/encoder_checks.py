"""Checks that a pipeline's encoders are those whose tokens its weights were trained on."""

from pathlib import Path

from fantasytalking.audio_tokens import AudioEncoderSpec, check_same_encoder
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.audio_loading import read_audio_encoder_spec
from fantasytalking.models.portrait_config import PortraitConfig
from fantasytalking.pipeline.loading.stored_model import StoredModel


def check_audio_encoder_config(model: StoredModel, audio_encoder: str | Path | None, audio_dim: int | None) -> None:
    """Checks kind and width of an audio encoder by its configuration, before any weights are read.

    Args:
        audio_encoder: folder, file or hub id; None: audio_encoder in the base.
        audio_dim: channels that the model reads; None: those of a saved pipeline's transformer.

    Raises:
        InputError: the configuration is missing, malformed or of an unsupported kind, or see `check_audio_encoder`.
    """
    source, subfolder = (model.base, "audio_encoder") if audio_encoder is None else (audio_encoder, "")
    if not Path(resolve_local(source)).is_file():  # a file has no configuration; it is checked once it is loaded
        check_audio_encoder(model, read_audio_encoder_spec(source, subfolder), audio_dim)


def check_audio_encoder(model: StoredModel, found: AudioEncoderSpec, audio_dim: int | None) -> None:
    """Checks an audio encoder against the size of the model and against its adapters.

    Args:
        audio_dim: as in `check_audio_encoder_config`.

    Raises:
        InputError: the model reads tokens of another width, or an adapter was trained on another encoder.
    """
    audio_dim = _saved_audio_dim(model.base) if audio_dim is None else audio_dim
    if audio_dim is None:
        return  # loading reports the missing transformer
    check_audio_dim(found.dim, audio_dim)
    for path, adapter in model.adapters:
        if adapter is not None and (adapter.audio_encoder is not None or "audio" in adapter.modules):
            check_same_encoder(
                found,
                adapter.audio_encoder_spec(audio_dim),
                "the audio encoder is",
                f"give the one that adapter '{path}' was trained with: audio_encoder=FOLDER",
            )


def check_audio_dim(found: int, expected: int) -> None:
    """Checks the width of an audio encoder's tokens against the transformer's `audio_dim`.

    Raises:
        InputError: they differ.
    """
    if found != expected:
        raise InputError(
            f"the audio encoder returns {found} channels, the model reads {expected} (audio_dim); give the encoder "
            "that the model was trained with: audio_encoder=FOLDER",
            code=ErrorCode.shape_mismatch,
            field="audio_encoder",
            value=found,
        )


def check_image_encoder(image_encoder: object | None, image_dim: int | None) -> None:
    """Checks that a pipeline has the CLIP encoder that its transformer attends to.

    Args:
        image_encoder: component of the pipeline; None: it was left out.
        image_dim: width of the CLIP tokens that the transformer reads; None: it reads none.

    Raises:
        InputError: the transformer reads CLIP tokens and the pipeline has no encoder.
    """
    if image_encoder is None and image_dim is not None:
        raise InputError(
            f"the pipeline has no image_encoder, but its transformer reads CLIP tokens of width {image_dim} "
            "(image_dim); load it with image_encoder and image_processor",
            code=ErrorCode.missing_value,
            field="image_encoder",
        )


def _saved_audio_dim(folder: Path) -> int | None:
    path = folder / "transformer" / "config.json"
    if not path.is_file():
        return None
    found = read_json(path).get("audio_dim", PortraitConfig.audio_dim)
    return found if isinstance(found, int) else PortraitConfig.audio_dim

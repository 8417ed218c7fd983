"""Loads the audio encoder of a folder or hub id by the kind of model that its configuration names."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PretrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from fantasytalking.audio_tokens import AudioEncoderSpec
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.loading import load_component, load_model, read_component_json
from fantasytalking.encoders.single_files.wav2vec_file import is_wav2vec_file, load_wav2vec_file
from fantasytalking.encoders.wav2vec import Wav2Vec2AudioEncoder
from fantasytalking.encoders.whisper import WhisperAudioEncoder, WhisperSpeechEncoder


class AudioModelKind(NamedTuple):
    """Classes of one architecture."""

    config_class: type[PretrainedConfig]
    model_class: type[PreTrainedModel]
    processor_class: type[SequenceFeatureExtractor]
    encoder_class: type[AudioEncoder]


AUDIO_MODEL_KINDS = {
    "wav2vec2": AudioModelKind(Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2FeatureExtractor, Wav2Vec2AudioEncoder),
    "hubert": AudioModelKind(HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2AudioEncoder),
    "wavlm": AudioModelKind(WavLMConfig, WavLMModel, Wav2Vec2FeatureExtractor, Wav2Vec2AudioEncoder),
    "whisper": AudioModelKind(WhisperConfig, WhisperSpeechEncoder, WhisperFeatureExtractor, WhisperAudioEncoder),
}
"""Supported architectures by `model_type` in config.json."""


def load_audio_encoder(
    source: str | Path,
    *,
    subfolder: str = "",
    processor_subfolder: str | None = None,
    device: torch.device | str | None = "cpu",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> AudioEncoder:
    """Loads a model and its feature extractor from a folder or hub id (facebook/wav2vec2-base-960h).

    Args:
        source: the folder or hub id; of wav2vec2, also a single file, or a folder with a torch file.
        subfolder: the folder of the model within `source`.
        processor_subfolder: the folder of the feature extractor; None uses `subfolder`.
        device: the device of the model.
        dtype: the data type of the model.
        options: further arguments of the model's `from_pretrained`.

    Raises:
        InputError: the model is missing, damaged or incomplete, is of another kind than `AUDIO_MODEL_KINDS`, or does
            not read 16 kHz.
    """
    if not subfolder and is_wav2vec_file(Path(resolve_local(source))):
        return _load_wav2vec_file(Path(resolve_local(source)), device, dtype)
    kind = _kind_of(source, subfolder)
    kind.encoder_class.spec_of(load_component(kind.config_class.from_pretrained, source, subfolder, "audio encoder"))
    processor_folder = subfolder if processor_subfolder is None else processor_subfolder
    described = read_component_json(source, processor_folder, "preprocessor_config.json", "audio processor")
    kind.encoder_class.check_processor_config(described, str(source))
    processor = load_component(kind.processor_class.from_pretrained, source, processor_folder, "audio processor")
    model = load_model(
        kind.model_class,
        source,
        subfolder,
        "audio encoder",
        allowed_missing=kind.encoder_class.allowed_missing,
        device=device,
        dtype=dtype,
        **options,
    )
    return kind.encoder_class(model, processor)


def audio_encoder_from_components(model: PreTrainedModel, processor: SequenceFeatureExtractor) -> AudioEncoder:
    """Returns the encoder of a loaded model and its feature extractor.

    Raises:
        InputError: the model is of another kind than `AUDIO_MODEL_KINDS`.
    """
    return _supported(model.config.model_type, type(model).__name__).encoder_class(model, processor)


def read_audio_encoder_spec(source: str | Path, subfolder: str = "") -> AudioEncoderSpec:
    """Returns what the configuration of a folder or hub id says about the tokens, without reading weights.

    Raises:
        InputError: the configuration is missing, malformed, or of another kind than `AUDIO_MODEL_KINDS`.
    """
    kind = _kind_of(source, subfolder)
    config = load_component(kind.config_class.from_pretrained, source, subfolder, "audio encoder")
    return kind.encoder_class.spec_of(config)


def _load_wav2vec_file(path: Path, device: torch.device | str | None, dtype: torch.dtype) -> AudioEncoder:
    if (path / "config.json").is_file() and (kind := _kind_of(path, "")) is not AUDIO_MODEL_KINDS["wav2vec2"]:
        raise InputError(
            f"audio encoder '{path}' has its weights in a torch file, which is read for wav2vec2, not for "
            f"{kind.model_class.__name__}; get its model.safetensors",
            code=ErrorCode.unsupported,
            field="audio_encoder",
            value=str(path),
        )
    model, processor = load_wav2vec_file(path, dtype)
    return Wav2Vec2AudioEncoder(model if device is None else model.to(device), processor)


def _kind_of(source: str | Path, subfolder: str) -> AudioModelKind:
    values = read_component_json(source, subfolder, "config.json", "audio encoder")
    return _supported(values.get("model_type"), str(source))


def _supported(model_type: Any, source: str) -> AudioModelKind:
    kind = AUDIO_MODEL_KINDS.get(model_type) if isinstance(model_type, str) else None
    if kind is None:
        raise InputError(
            f"audio encoder '{source}' is of the kind {str(model_type)[:60]!r}; supported are "
            f"{', '.join(AUDIO_MODEL_KINDS)}: give such a folder or hub id, audio_encoder=FOLDER",
            code=ErrorCode.unsupported,
            field="audio_encoder",
            value=model_type,
        )
    return kind

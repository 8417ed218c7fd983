"""Tiny audio encoders of every supported kind with random weights, as `hf download` would leave real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
"""As the large models of wav2vec2, HuBERT and WavLM have it, in place of a group norm over time."""
CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def transformer_sizes(dim: int) -> dict[str, Any]:
    return {"hidden_size": dim, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * dim}


def tiny_whisper(dim: int, seconds: int = 30, mel_bins: int = 80) -> WhisperForConditionalGeneration:
    """A whole Whisper, decoder included, with windows of `seconds`."""
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"d_model": dim, "encoder_ffn_dim": 2 * dim, "decoder_ffn_dim": 2 * dim, "vocab_size": 64}
    sizes |= {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "decoder_start")}
    config = WhisperConfig(max_source_positions=50 * seconds, num_mel_bins=mel_bins, **sizes)
    config.suppress_tokens = config.begin_suppress_tokens = None
    return WhisperForConditionalGeneration(config)


MODELS: dict[str, Callable[[int], PreTrainedModel]] = {
    "wav2vec2": lambda dim: Wav2Vec2Model(Wav2Vec2Config(**transformer_sizes(dim), **CONVOLUTIONS)),
    "wav2vec2-large": lambda dim: Wav2Vec2Model(Wav2Vec2Config(**transformer_sizes(dim), **CONVOLUTIONS, **LAYER_NORM)),
    "hubert": lambda dim: HubertModel(HubertConfig(**transformer_sizes(dim), **CONVOLUTIONS)),
    "wavlm-large": lambda dim: WavLMModel(WavLMConfig(**transformer_sizes(dim), **CONVOLUTIONS, **LAYER_NORM)),
    "whisper": tiny_whisper,
}


def save_audio_encoder(folder: Path, name: str, dim: int = 16, seed: int = 0) -> Path:
    """Writes one of `MODELS` with its feature extractor."""
    torch.manual_seed(seed)
    MODELS[name](dim).save_pretrained(folder)
    extractor = WhisperFeatureExtractor() if name == "whisper" else Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)
    return folder

"""wav2vec2 in a single file, and in a folder whose weights are a torch file.

A file has no configuration: what does not follow from the shapes is that of the published models.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights
from fantasytalking.encoders.loading import ATTENTION_IMPLEMENTATION, load_component
from fantasytalking.encoders.single_files.building import (
    MAX_LAYERS,
    axis_sizes,
    build_from_tensors,
    layer_count,
    renamed_by_patterns,
)

TORCH_WEIGHTS_FILE = "pytorch_model.bin"
CONFIG_FILES = ("config.json", "preprocessor_config.json")
_HEAD_DIM = 64
"""Width of an attention head of every published wav2vec2."""
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Strides of the convolutions of every published wav2vec2."""
SAMPLE_RATE = 16_000
_REQUIREMENT = "wav2vec2, such as wav2vec2-base-960h or chinese-wav2vec2-base"

_POSITION_CONV = "encoder.pos_conv_embed.conv"
_NAMES = (
    (r"(?:wav2vec2\.)?(.+)\.weight_g", r"\1.parametrizations.weight.original0"),
    (r"(?:wav2vec2\.)?(.+)\.weight_v", r"\1.parametrizations.weight.original1"),
    (r"wav2vec2\.(.+)", r"\1"),
)
_IGNORED = (
    *(r"lm_head\..+", r"quantizer\..+", r"project_(?:hid|q)\..+", r"(?:wav2vec2\.)?masked_spec_embed"),
    *(r"(?:classifier|projector)\..+", r"layer_weights"),
)
"""Parts of models that are pretrained or recognize speech, which tokens do not depend on."""

logger = logging.getLogger(__name__)


def is_wav2vec_file(path: Path) -> bool:
    """Whether a path is a file, or a folder whose weights are a torch file alone."""
    return path.is_file() or ((path / TORCH_WEIGHTS_FILE).is_file() and not any(path.glob("*.safetensors")))


def load_wav2vec_file(path: Path, dtype: torch.dtype = torch.float32) -> tuple[Wav2Vec2Model, Wav2Vec2FeatureExtractor]:
    """Loads wav2vec2 and its feature extractor from a file, or from a folder with `TORCH_WEIGHTS_FILE`.

    The configurations are those of the folder; a file alone has none.

    Args:
        path: a file of `WEIGHT_SUFFIXES`, or a folder.
        dtype: dtype of the weights.

    Raises:
        InputError: the file cannot be read, is another model, has tensors too few or too many, or is not for 16 kHz.
    """
    folder = path if path.is_dir() else path.parent
    weights = path / TORCH_WEIGHTS_FILE if path.is_dir() else path
    stored = open_weights(weights)
    tensors = _with_transformers_names(stored)
    if path.is_dir() or all((folder / name).is_file() for name in CONFIG_FILES):
        config = load_component(Wav2Vec2Config.from_pretrained, folder, "", "audio encoder")
        extractor = load_component(Wav2Vec2FeatureExtractor.from_pretrained, folder, "", "audio processor")
    else:
        config = _infer_config(tensors)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=_infer_normalization(stored, config))
    if tuple(config.conv_stride) != CONV_STRIDES or extractor.sampling_rate != SAMPLE_RATE:
        raise InputError(
            f"audio encoder '{folder}' reads {extractor.sampling_rate} Hz, with strides {tuple(config.conv_stride)}; "
            f"{SAMPLE_RATE} Hz and {CONV_STRIDES} are required: use {_REQUIREMENT}",
            code=ErrorCode.unsupported,
            field="audio_encoder",
            value=extractor.sampling_rate,
        )
    if not 0 < config.num_hidden_layers <= MAX_LAYERS or len(config.conv_dim) > MAX_LAYERS:
        raise InputError(
            f"audio encoder '{folder}' has {config.num_hidden_layers} layers; at most {MAX_LAYERS} are read; get its "
            "config.json again",
            code=ErrorCode.out_of_range,
            field="num_hidden_layers",
            value=config.num_hidden_layers,
        )
    config.mask_time_prob = config.mask_feature_prob = 0.0  # its embedding is for training
    model = build_from_tensors(
        lambda: Wav2Vec2Model._from_config(config, attn_implementation=ATTENTION_IMPLEMENTATION),
        tensors,
        dtype,
        "audio encoder",
    )
    return model, extractor


def _infer_config(tensors: LazyTensors) -> Wav2Vec2Config:
    width = axis_sizes(tensors, "encoder.layer_norm.weight", 1, _REQUIREMENT)[0]
    convolutions = layer_count(tensors, "feature_extractor.conv_layers.")
    kernels = [
        axis_sizes(tensors, f"feature_extractor.conv_layers.{number}.conv.weight", 3, _REQUIREMENT)
        for number in range(convolutions)
    ]
    positions = axis_sizes(tensors, f"{_POSITION_CONV}.parametrizations.weight.original1", 3, _REQUIREMENT)
    if convolutions != len(CONV_STRIDES) or width % _HEAD_DIM or positions[1] > width:
        raise InputError(
            f"audio encoder '{tensors.source}' has {convolutions} convolutions and the width {width}; it must be "
            f"{_REQUIREMENT}",
            code=ErrorCode.shape_mismatch,
            field="encoder.layer_norm.weight",
            value=width,
        )
    has_layer_norms = "feature_extractor.conv_layers.1.layer_norm.weight" in tensors.shapes  # of the large models
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=layer_count(tensors, "encoder.layers."),
        num_attention_heads=width // _HEAD_DIM,
        intermediate_size=axis_sizes(
            tensors, "encoder.layers.0.feed_forward.intermediate_dense.weight", 2, _REQUIREMENT
        )[0],
        conv_dim=tuple(shape[0] for shape in kernels),
        conv_kernel=tuple(shape[2] for shape in kernels),
        conv_stride=CONV_STRIDES,
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in tensors.shapes,
        feat_extract_norm="layer" if has_layer_norms else "group",
        do_stable_layer_norm=has_layer_norms,
        num_conv_pos_embeddings=positions[2],
        num_conv_pos_embedding_groups=width // positions[1],
    )


def _infer_normalization(stored: LazyTensors, config: Wav2Vec2Config) -> bool:
    """Whether the waveform is normalized: for models that recognize speech and large ones, not for the Chinese base."""
    is_normalized = config.do_stable_layer_norm or any(name.startswith("lm_head.") for name in stored.shapes)
    logger.warning(
        "note: '%s' states no configuration; do_normalize=%s is assumed, as of %s; put config.json and "
        "preprocessor_config.json of its model beside it for others",
        stored.source,
        str(is_normalized).lower(),
        "wav2vec2-base-960h and the large models" if is_normalized else "chinese-wav2vec2-base",
    )
    return is_normalized


def _with_transformers_names(stored: LazyTensors) -> LazyTensors:
    tensors = renamed_by_patterns(stored, _NAMES, _IGNORED)
    plain = f"{_POSITION_CONV}.weight"
    return tensors if plain not in tensors.shapes else _with_weight_norm(tensors, plain)


def _with_weight_norm(tensors: LazyTensors, plain: str) -> LazyTensors:
    """Splits the weight of the convolution of positions into magnitudes and directions, as the model has it."""
    magnitudes, directions = (f"{_POSITION_CONV}.parametrizations.weight.original{number}" for number in (0, 1))
    shapes = dict(tensors.shapes)
    shape = shapes.pop(plain)
    shapes |= {magnitudes: (1, 1, *shape[2:]), directions: shape}

    def read(name: str) -> Tensor:
        if name not in (magnitudes, directions):
            return tensors.read(name)
        weight = tensors.read(plain)
        return weight if name == directions else weight.float().norm(dim=(0, 1), keepdim=True).to(weight.dtype)

    return LazyTensors(tensors.source, shapes, read)

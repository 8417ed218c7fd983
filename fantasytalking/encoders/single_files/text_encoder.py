"""umT5 in a single file: Wan's names, those of transformers, and those of llama.cpp, with its tokenizer in some."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import bounded_file
from fantasytalking.common.limits import MAX_TOKENIZER_BYTES
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights, without_prefix
from fantasytalking.encoders.loading import ATTENTION_IMPLEMENTATION, load_component
from fantasytalking.encoders.single_files.building import (
    axis_sizes,
    build_from_tensors,
    layer_count,
    renamed_by_patterns,
)
from fantasytalking.encoders.single_files.sentencepiece_model import parse_sentencepiece

SPIECE_TENSOR = "spiece_model"
"""Bytes of the tokenizer's SentencePiece model, in ComfyUI's files."""
_PREFIXES = ("model.", "text_encoder.", "umt5xxl.transformer.")
_REQUIREMENT = "umT5's encoder: models_t5_umt5-xxl-enc-bf16.pth or a repack of it"

_ATTENTION = r"encoder.block.\1.layer.0.SelfAttention"
_WAN_NAMES = (
    (r"token_embedding\.weight", "shared.weight"),
    (r"blocks\.(\d+)\.norm1\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.weight", rf"{_ATTENTION}.\2.weight"),
    (r"blocks\.(\d+)\.pos_embedding\.embedding\.weight", rf"{_ATTENTION}.relative_attention_bias.weight"),
    (r"blocks\.(\d+)\.norm2\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"blocks\.(\d+)\.ffn\.gate\.0\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
    (r"blocks\.(\d+)\.ffn\.fc1\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"blocks\.(\d+)\.ffn\.fc2\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
    (r"norm\.weight", "encoder.final_layer_norm.weight"),
)
_LLAMA_NAMES = (
    (r"token_embd\.weight", "shared.weight"),
    (r"enc\.blk\.(\d+)\.attn_norm\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"enc\.blk\.(\d+)\.attn_([qkvo])\.weight", rf"{_ATTENTION}.\2.weight"),
    (r"enc\.blk\.(\d+)\.attn_rel_b\.weight", rf"{_ATTENTION}.relative_attention_bias.weight"),
    (r"enc\.blk\.(\d+)\.ffn_norm\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"enc\.blk\.(\d+)\.ffn_gate\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
    (r"enc\.blk\.(\d+)\.ffn_up\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"enc\.blk\.(\d+)\.ffn_down\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
    (r"enc\.output_norm\.weight", "encoder.final_layer_norm.weight"),
)
_TIED = {"encoder.embed_tokens.weight": "shared.weight"}


def load_text_encoder_file(
    path: Path, dtype: torch.dtype = torch.float32, keep_quantized: bool = False
) -> UMT5EncoderModel:
    """Loads umT5 from Wan's models_t5_umt5-xxl-enc-bf16.pth, a repack of it, or a GGUF file.

    Args:
        path: a file of `WEIGHT_SUFFIXES`.
        dtype: dtype of the weights.
        keep_quantized: whether linear layers keep weights that the file stores quantized.

    Raises:
        InputError: the file cannot be read, is another model, or has tensors too few or too many.
    """
    config, tensors = open_text_encoder_file(path)
    return build_from_tensors(
        lambda: UMT5EncoderModel._from_config(config, attn_implementation=ATTENTION_IMPLEMENTATION),
        tensors,
        dtype,
        "text encoder",
        _TIED,
        keep_quantized,
    )


def open_text_encoder_file(path: Path) -> tuple[UMT5Config, LazyTensors]:
    """Returns the configuration that follows from the shapes in a file, and its tensors in transformers' names.

    Raises:
        InputError: the file cannot be read or is another model.
    """
    tensors = _with_transformers_names(without_prefix(open_weights(path), _PREFIXES))
    vocabulary, width = axis_sizes(tensors, "shared.weight", 2, _REQUIREMENT)
    first = "encoder.block.0.layer"
    buckets, heads = axis_sizes(tensors, f"{first}.0.SelfAttention.relative_attention_bias.weight", 2, _REQUIREMENT)
    inner = axis_sizes(tensors, f"{first}.0.SelfAttention.q.weight", 2, _REQUIREMENT)[0]
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=axis_sizes(tensors, f"{first}.1.DenseReluDense.wi_0.weight", 2, _REQUIREMENT)[0],
        num_layers=layer_count(tensors, "encoder.block."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )
    return config, tensors


def has_tokenizer(path: Path) -> bool:
    """Whether a text encoder's file contains its tokenizer.

    Raises:
        InputError: the file cannot be read.
    """
    return SPIECE_TENSOR in open_weights(path).shapes


def load_tokenizer_file(path: Path) -> PreTrainedTokenizerBase:
    """Loads umT5's tokenizer from its folder, from spiece.model, or a text encoder's file that contains it.

    Raises:
        InputError: there is no tokenizer in it, or it cannot be read.
    """
    if path.is_dir():
        return load_component(AutoTokenizer.from_pretrained, path, "", "text tokenizer")
    if path.suffix == ".model":
        cure = "give umT5's spiece.model"
        return parse_sentencepiece(bounded_file(path, "tokenizer", MAX_TOKENIZER_BYTES, cure).read_bytes(), str(path))
    stored = open_weights(path)
    shape = stored.shapes.get(SPIECE_TENSOR)
    if shape is None or len(shape) != 1 or not 0 < shape[0] <= MAX_TOKENIZER_BYTES:
        raise InputError(
            f"'{path}' contains no tokenizer (a list of at most {MAX_TOKENIZER_BYTES} bytes, '{SPIECE_TENSOR}'); set "
            "components.tokenizer to a folder: hf download google/umt5-xxl --include '*token*' --include spiece.model",
            code=ErrorCode.missing_weights,
            field=SPIECE_TENSOR,
            value=shape,
        )
    return parse_sentencepiece(stored.read(SPIECE_TENSOR).to(torch.uint8).numpy().tobytes(), str(path))


def _with_transformers_names(tensors: LazyTensors) -> LazyTensors:
    names = _LLAMA_NAMES if "token_embd.weight" in tensors.shapes else _WAN_NAMES
    is_wan = "token_embedding.weight" in tensors.shapes
    ignored = [SPIECE_TENSOR]
    if "shared.weight" in tensors.shapes or is_wan:
        ignored += [name.replace(".", r"\.") for name in _TIED]  # a second copy of the same tensor
    own = (*names, (r"encoder\.embed_tokens\.weight", "shared.weight"))
    return renamed_by_patterns(tensors, own, ignored)

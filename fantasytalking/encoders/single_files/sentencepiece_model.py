"""Reads a SentencePiece model (unigram) as a tokenizer.

transformers reads such files with a protobuf that mediapipe excludes. Fields of the messages:
github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fantasytalking.common.errors import ErrorCode, InputError

SPACE = "▁"
PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<pad>", "</s>", "<unk>"

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 35, 40
_UNIGRAM = 1
_CHARS_MAP = 2
_FIXED_BYTES = {1: 8, 5: 4}


def parse_sentencepiece(model: bytes, source: str) -> PreTrainedTokenizerBase:
    """Builds T5's tokenizer from a SentencePiece model; every sequence ends with `END_TOKEN`.

    Args:
        source: name of the file in messages.

    Raises:
        InputError: it is damaged, no unigram model, or lacks T5's special tokens.
    """
    try:
        vocabulary, trainer, chars_map = _parse(model)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise _damaged(source, "cannot be parsed") from error
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    unknown = trainer.get(_UNKNOWN_ID, 0)
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or not {PAD_TOKEN, END_TOKEN} <= ids.keys():
        raise _damaged(source, "is no unigram model with T5's special tokens")
    if ids.get(UNKNOWN_TOKEN) != unknown or len(ids) != len(vocabulary):
        raise _damaged(source, "has no unknown token, or a piece twice")
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown, bool(trainer.get(_BYTE_FALLBACK, 0))))
    if chars_map:
        _check_chars_map(chars_map, source)
        tokenizer.normalizer = normalizers.Precompiled(chars_map)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_TOKEN}", special_tokens=[(END_TOKEN, ids[END_TOKEN])]
    )
    special = {"pad_token": PAD_TOKEN, "eos_token": END_TOKEN, "unk_token": UNKNOWN_TOKEN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _parse(model: bytes) -> tuple[list[tuple[str, float]], dict[int, int], bytes]:
    """Returns pieces with scores, numbers of the trainer's settings by field, and the map of characters."""
    vocabulary: list[tuple[str, float]] = []
    trainer: dict[int, int] = {}
    chars_map = b""
    for number, value in _fields(model):
        if number == _PIECES:
            piece = dict(_fields(value))
            vocabulary.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
        elif number == _TRAINER:
            trainer |= {field: item for field, item in _fields(value) if isinstance(item, int)}
        elif number == _NORMALIZER:
            chars_map = dict(_fields(value)).get(_CHARS_MAP, b"")
    if not vocabulary or not all(np.isfinite([score for _, score in vocabulary])) or not isinstance(chars_map, bytes):
        raise ValueError("no pieces, or scores that are not finite")
    return vocabulary, trainer, chars_map


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and value of the fields of a protobuf message: integers, or bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == 0:
            value: int | bytes
            value, position = _varint(message, position)
        elif kind in (1, 2, 5):
            length, position = _varint(message, position) if kind == 2 else (_FIXED_BYTES[kind], position)
            value, position = message[position : position + length], position + length
            if position > len(message):
                raise IndexError("a field is cut off")
        else:
            raise ValueError("a group")
        yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("an integer of more than 10 bytes")


def _check_chars_map(chars_map: bytes, source: str) -> None:
    """Checks that a precompiled map (a double-array trie and its replacements) leads nowhere outside itself.

    The tokenizers library follows it without checks. Format: github.com/s-yata/darts-clone
    """
    size = int.from_bytes(chars_map[:4], "little")
    replacements = len(chars_map) - 4 - size
    if size == 0 or size % 4 or replacements < 1:
        raise _damaged(source, "has a map of characters of the wrong size")
    units = np.frombuffer(chars_map, "<u4", size // 4, 4).astype(np.int64)
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    is_value = units >> 31 == 1
    last = (np.arange(len(units)) ^ offsets) | 0xFF
    if (last[~is_value] >= len(units)).any() or ((units & 0x7FFFFFFF)[is_value] >= replacements).any():
        raise _damaged(source, "has a map of characters that leads outside itself")
    try:
        chars_map[4 + size :].decode()
    except UnicodeDecodeError as error:
        raise _damaged(source, "has replacements that are not UTF-8") from error


def _damaged(source: str, problem: str) -> InputError:
    return InputError(
        f"the tokenizer in '{source}' {problem}; give umT5's spiece.model, or set components.tokenizer to its folder",
        code=ErrorCode.malformed_file,
        field="spiece_model",
        value=source,
    )

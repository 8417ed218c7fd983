"""Small files with the names and dtypes of published repacks, written independently of the code that reads them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

ONE_HEAD = {"num_attention_heads": 1, "attention_head_dim": 128, "added_kv_proj_dim": 128, "num_layers": 1}
"""Sizes of a transformer whose number of heads follows from its width."""


def original_names(base: WanTransformer3DModel) -> dict[str, Tensor]:
    """A base's tensors under Wan's original names, by the public table of names, independent of the code under test."""
    parts = {
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
        "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
        "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
        "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
        "proj_out": "head.head",
    }
    inner = {
        "attn1.norm_q": "self_attn.norm_q",
        "attn1.norm_k": "self_attn.norm_k",
        "attn1.to_q": "self_attn.q",
        "attn1.to_k": "self_attn.k",
        "attn1.to_v": "self_attn.v",
        "attn1.to_out.0": "self_attn.o",
        "attn2.norm_q": "cross_attn.norm_q",
        "attn2.norm_k": "cross_attn.norm_k",
        "attn2.to_q": "cross_attn.q",
        "attn2.to_k": "cross_attn.k",
        "attn2.to_v": "cross_attn.v",
        "attn2.to_out.0": "cross_attn.o",
        "attn2.add_k_proj": "cross_attn.k_img",
        "attn2.add_v_proj": "cross_attn.v_img",
        "attn2.norm_added_k": "cross_attn.norm_k_img",
        "norm2": "norm3",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    }
    renamed = {}
    for name, value in base.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        if name == "scale_shift_table":
            new = "head.modulation"
        elif name.endswith("scale_shift_table"):
            new = f"{stem}.modulation"
        elif name.startswith("blocks."):
            _, number, rest = stem.split(".", 2)
            new = f"blocks.{number}.{inner[rest]}.{leaf}"
        else:
            new = f"{parts.get(stem, stem)}.{leaf}"
        renamed[new] = value
    return renamed


def is_quantized(name: str, value: Tensor) -> bool:
    """Whether repacks quantize a tensor: the weights of linear layers."""
    return name.endswith(".weight") and value.ndim == 2 and "norm" not in name


def scaled_float8(tensors: Mapping[str, Tensor], ending: str = ".scale_weight") -> tuple[dict[str, Tensor], ...]:
    """Tensors with linear weights in float8 and one scale each, and what they are by hand."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    expected: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not is_quantized(name, value):
            stored[name] = expected[name] = value
            continue
        scale = value.abs().max().float() / 448
        stored[name] = (value.float() / scale).to(torch.float8_e4m3fn)
        stored[name.removesuffix(".weight") + ending] = scale
        expected[name] = stored[name].float() * scale
    return stored, expected


def write_gguf(path: Path, tensors: Mapping[str, np.ndarray], arch: str = "wan", **kinds: str) -> Path:
    """Writes a file by the writer of the gguf package; `kinds` are the quantizations of arrays of bytes."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(str(path), arch)
    for name, value in tensors.items():
        kind = gguf.GGMLQuantizationType[kinds[name]] if name in kinds else None
        writer.add_tensor(name, value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_quantized_gguf(path: Path, tensors: Mapping[str, Tensor], kind: str = "Q8_0") -> dict[str, Tensor]:
    """Writes linear weights quantized and others in float32, as city96's tools do; returns what they are by hand."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    number = gguf.GGMLQuantizationType[kind]
    block_size = gguf.GGML_QUANT_SIZES[number][0]
    stored, expected, kinds = {}, {}, {}
    for name, value in tensors.items():
        stored[name] = value.float().numpy()
        if is_quantized(name, value) and value.shape[1] % block_size == 0:
            stored[name], kinds[name] = gguf.quants.quantize(stored[name], number), kind
            expected[name] = torch.from_numpy(gguf.quants.dequantize(stored[name], number))
        else:
            expected[name] = value.float()
    write_gguf(path, stored, **kinds)
    return expected

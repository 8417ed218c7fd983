"""Small files with the names and dtypes of published repacks, written independently of the code that reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionModel, UMT5EncoderModel, Wav2Vec2Model

from fantasytalking.checkpoints.released_portrait import to_released_expression
from fantasytalking.encoders.fantasy_portrait.pd_fgc import PdFgcNetwork
from fantasytalking.models.wan_loading import adapter_module_of

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


def original_vae_names(vae: AutoencoderKLWan) -> dict[str, Tensor]:
    """A VAE's tensors under the names of Wan2.1_VAE.pth or, of a residual one, of Wan2.2_VAE.pth."""
    residual = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    residual |= {"conv_shortcut": "shortcut"}
    ends = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
    for part in ("encoder", "decoder"):
        ends |= {f"{part}.conv_in": f"{part}.conv1", f"{part}.norm_out": f"{part}.head.0"}
        ends |= {f"{part}.conv_out": f"{part}.head.2"}

    def renamed(stem: str) -> str:
        if stem in ends:
            return ends[stem]
        part, place, *rest = stem.split(".")
        if place == "mid_block" and rest[0] == "attentions":
            return f"{part}.middle.1.{rest[-1]}"
        if place in ("down_blocks", "up_blocks") and vae.config["is_residual"]:
            kind = place.replace("_blocks", "samples")
            resnets = vae.config["num_res_blocks"] + (place == "up_blocks")
            if rest[1] == "resnets":
                return f"{part}.{kind}.{rest[0]}.{kind}.{rest[2]}.{residual[rest[3]]}"
            return f"{part}.{kind}.{rest[0]}.{kind}.{resnets}." + ".".join(rest[2:])
        if place == "mid_block":
            return f"{part}.middle.{2 * int(rest[1])}.{residual[rest[-1]]}"
        if place == "down_blocks":
            return f"{part}.downsamples.{rest[0]}." + ".".join([residual.get(rest[1], rest[1]), *rest[2:]])
        number = 4 * int(rest[0]) + (3 if rest[1] == "upsamplers" else int(rest[2]))
        return f"{part}.upsamples.{number}." + ".".join([residual.get(rest[3], rest[3]), *rest[4:]])

    return {
        f"{renamed(name.rpartition('.')[0])}.{name.rpartition('.')[2]}": value
        for name, value in vae.state_dict().items()
    }


def original_text_names(model: UMT5EncoderModel) -> dict[str, Tensor]:
    """umT5's tensors under the names of models_t5_umt5-xxl-enc-bf16.pth."""
    parts = {
        "layer.0.layer_norm": "norm1",
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        **{f"layer.0.SelfAttention.{name}": f"attn.{name}" for name in "qkvo"},
        "layer.1.layer_norm": "norm2",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
    }
    renamed = {}
    for name, value in hf_text_names(model).items():
        stem = name.removesuffix(".weight")
        if stem == "shared":
            new = "token_embedding"
        elif stem == "encoder.final_layer_norm":
            new = "norm"
        else:
            _, _, number, rest = stem.split(".", 3)
            new = f"blocks.{number}.{parts[rest]}"
        renamed[f"{new}.weight"] = value
    return renamed


def hf_text_names(model: UMT5EncoderModel) -> dict[str, Tensor]:
    """umT5's tensors as transformers and ComfyUI name them, each once."""
    return {name: value for name, value in model.state_dict().items() if name != "encoder.embed_tokens.weight"}


def original_clip_names(model: CLIPVisionModel) -> dict[str, Tensor]:
    """The tensors under the names of models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, with other parts."""
    state = model.state_dict()
    width = len(state["embeddings.class_embedding"])
    renamed = {
        "log_scale": torch.ones(()),
        "textual.token_embedding.weight": torch.ones(5, 4),
        "visual.head": torch.ones(width, 3),
        "visual.cls_embedding": state["embeddings.class_embedding"].reshape(1, 1, -1),
        "visual.pos_embedding": state["embeddings.position_embedding.weight"][None],
        "visual.patch_embedding.weight": state["embeddings.patch_embedding.weight"],
    }
    for leaf in ("weight", "bias"):
        renamed[f"visual.pre_norm.{leaf}"] = state[f"pre_layrnorm.{leaf}"]
        renamed[f"visual.post_norm.{leaf}"] = state[f"post_layernorm.{leaf}"]
        for number in range(model.config.num_hidden_layers):
            ours, theirs = f"encoder.layers.{number}", f"visual.transformer.{number}"
            joined = [state[f"{ours}.self_attn.{kind}_proj.{leaf}"] for kind in "qkv"]
            renamed[f"{theirs}.attn.to_qkv.{leaf}"] = torch.cat(joined)
            parts = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
            parts |= {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
            renamed |= {f"{theirs}.{new}.{leaf}": state[f"{ours}.{old}.{leaf}"] for old, new in parts.items()}
    return renamed


def sentencepiece_model(folder: Path, vocab_size: int = 60, **settings: Any) -> bytes:
    """A small SentencePiece model with the special tokens of umT5's."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    text = folder / "text.txt"
    text.write_text("a person talks to the camera\nthe other one listens and smiles\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=vocab_size,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return (folder / "spiece.model").read_bytes()


def acvlab(tensors: dict[str, Tensor], folder: Path) -> Path:
    parts: dict[str, dict[str, Tensor]] = {"proj_model": {}, "audio_processor": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    torch.save(parts, folder / "fantasytalking_model.ckpt")
    return folder / "fantasytalking_model.ckpt"


def kijai(tensors: dict[str, Tensor], folder: Path) -> Path:
    """Blocks in float16 and the projector in float32."""
    stored = {}
    for name, value in tensors.items():
        short = name.removeprefix("audio_processor.").replace(".processor.", ".")
        stored[short] = value.float() if name.startswith("proj_model") else value.half()
    save_file(stored, folder / "fantasytalking_fp16.safetensors", metadata={"format": "pt"})
    return folder / "fantasytalking_fp16.safetensors"


def wan2gp(tensors: dict[str, Tensor], folder: Path, prefix: str = "") -> Path:
    """Two files: the blocks, and the projector without a prefix."""
    blocks = {name.removeprefix("audio_processor."): value for name, value in tensors.items() if "blocks" in name}
    path = folder / "wan2.1_fantasy_speaking_14B_bf16.safetensors"
    save_file({prefix + name: value.bfloat16() for name, value in blocks.items()}, path)
    projector = {name.removeprefix("proj_model."): value for name, value in tensors.items() if "blocks" not in name}
    save_file(projector, folder / "fantasy_proj_model.safetensors")
    return path


def wan2gp_with_prefix(tensors: dict[str, Tensor], folder: Path) -> Path:
    return wan2gp(tensors, folder, "diffusion_model.")


def audio_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The audio module in values that every dtype holds; without positions, which the released model lacks."""
    state = {name: value for name, value in model.state_dict().items() if adapter_module_of(name) == "audio"}
    state.pop("audio_projector.positions", None)
    return {name: value.bfloat16().half().float() for name, value in state.items()}


def portrait_with_encoder(expression: dict[str, Tensor], folder: Path) -> tuple[Path, dict[str, Tensor], PdFgcNetwork]:
    """Kijai's FantasyPortrait: adapter and expression encoder in one file."""
    expression = {name: value.half().float() for name, value in expression.items()}
    torch.manual_seed(0)
    network = PdFgcNetwork()
    stored = {name: value.half() for name, value in to_released_expression(expression, flat=True).items()}
    stored |= {f"pd_fpg.{name}": value.clone() for name, value in network.state_dict().items()}
    stored["pd_fpg.mouth_embed.1.weight"] = torch.zeros(500, 512)
    path = folder / "Wan2_1_FantasyPortrait_fp16.safetensors"
    save_file(stored, path)
    return path, expression, network


def published_wav2vec_names(
    model: Wav2Vec2Model, prefix: str = "", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Names of files from before torch's parametrizations, with parts that the tokens do not depend on."""
    ends = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    named = {"quantizer.codevectors": torch.ones(1, 2), "project_q.bias": torch.ones(2)}
    for name, value in model.state_dict().items():
        for ours, theirs in ends.items():
            name = name.replace(ours, theirs)
        named[prefix + name] = value.to(dtype)
    return named

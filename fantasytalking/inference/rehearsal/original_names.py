"""Names of tensors in single files: Wan's original repositories for transformer and VAE, llama.cpp for umT5."""

import re

_TRANSFORMER = {
    r"^condition_embedder\.(time|text)_embedder\.linear_1": r"\1_embedding.0",
    r"^condition_embedder\.(time|text)_embedder\.linear_2": r"\1_embedding.2",
    r"^condition_embedder\.time_proj": "time_projection.1",
    r"^condition_embedder\.image_embedder\.norm1": "img_emb.proj.0",
    r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj": "img_emb.proj.1",
    r"^condition_embedder\.image_embedder\.ff\.net\.2": "img_emb.proj.3",
    r"^condition_embedder\.image_embedder\.norm2": "img_emb.proj.4",
    r"^proj_out": "head.head",
    r"^scale_shift_table": "head.modulation",
    r"\.scale_shift_table": ".modulation",
    r"\.norm2\.": ".norm3.",
    r"\.ffn\.net\.0\.proj": ".ffn.0",
    r"\.ffn\.net\.2": ".ffn.2",
    r"\.attn1\.": ".self_attn.",
    r"\.attn2\.": ".cross_attn.",
    r"\.to_out\.0": ".o",
    r"\.to_([qkv])\.": r".\1.",
    r"\.add_([kv])_proj": r".\1_img",
    r"\.norm_added_k": ".norm_k_img",
}
_VAE = {
    r"\.mid_block\.resnets\.0": ".middle.0",
    r"\.mid_block\.attentions\.0": ".middle.1",
    r"\.mid_block\.resnets\.1": ".middle.2",
    r"\.down_blocks\.": ".downsamples.",
    r"\.norm1\.": ".residual.0.",
    r"\.conv1\.(weight|bias)$": r".residual.2.\1",
    r"\.norm2\.": ".residual.3.",
    r"\.conv2\.": ".residual.6.",
    r"\.conv_shortcut": ".shortcut",
    r"^quant_conv": "conv1",
    r"^post_quant_conv": "conv2",
    r"^(encoder|decoder)\.conv_in": r"\1.conv1",
    r"^(encoder|decoder)\.norm_out": r"\1.head.0",
    r"^(encoder|decoder)\.conv_out": r"\1.head.2",
}
_VAE_UP_BLOCK = re.compile(r"decoder\.up_blocks\.(\d)\.(?:resnets\.(\d)|upsamplers\.0)")
_LAYERS_PER_UP_BLOCK = 4
"""Three residual blocks and an upsampler, which the original counts through."""
_UMT5 = {
    r"^shared": "token_embd",
    r"^encoder\.final_layer_norm": "enc.output_norm",
    r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm": r"enc.blk.\1.attn_norm",
    r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias": r"enc.blk.\1.attn_rel_b",
    r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.": r"enc.blk.\1.attn_\2.",
    r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm": r"enc.blk.\1.ffn_norm",
    r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0": r"enc.blk.\1.ffn_gate",
    r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1": r"enc.blk.\1.ffn_up",
    r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo": r"enc.blk.\1.ffn_down",
}


def original_transformer_name(name: str) -> str:
    """Returns the name in Wan's repositories of a tensor of diffusers' transformer."""
    return _renamed(name, _TRANSFORMER)


def original_vae_name(name: str) -> str:
    """Returns the name in Wan2.1_VAE.pth of a tensor of diffusers' VAE."""

    def numbered(hit: re.Match[str]) -> str:
        layer = _LAYERS_PER_UP_BLOCK - 1 if hit[2] is None else int(hit[2])
        return f"decoder.upsamples.{_LAYERS_PER_UP_BLOCK * int(hit[1]) + layer}"

    return _renamed(_VAE_UP_BLOCK.sub(numbered, name), _VAE)


def llama_text_encoder_name(name: str) -> str:
    """Returns the name in llama.cpp's files of a tensor of transformers' umT5."""
    return _renamed(name, _UMT5)


def _renamed(name: str, rules: dict[str, str]) -> str:
    for pattern, new in rules.items():
        name = re.sub(pattern, new, name)
    return name

"""Attention in bfloat16 on a CPU: of a model that makes videos in float32, of one that trains by plain products.

PyTorch multiplies bfloat16 matrices of a linear layer by the processor's own instructions, but not those of its
attention on processors without AMX: that runs as slow as float32 while it rounds logits and weights. A model that makes
videos takes queries, keys and values up to float32 and leaves the products to oneDNN, which is allowed to use bfloat16
instructions for them where it has any: faster, and closer to the float32 model.

Gradients of that attention take seven times as long as its forward pass, and PyTorch's unfused one (`_native_math`)
spends most of its time on copies and on rows that are padding alone. A model that trains multiplies by itself.

Axes: B batch, S queries, T keys, h heads, d head_dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN_MATMUL = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
"""What oneDNN may do in products of float32 matrices."""
MAX_LOGITS = 2**27
"""Held at once by plain products: 256 MiB in bfloat16, and as much again for their gradient."""


def use_float32_attention(model: nn.Module) -> None:
    """Lets every attention of Wan's blocks work in float32. For inference on a CPU."""
    for module in model.modules():
        if isinstance(module, WanAttention) and module.is_cross_attention:
            module.processor.use_float32 = True
        elif isinstance(module, WanAttention):
            module.set_processor(Float32SelfAttnProcessor())


def use_matmul_attention(model: nn.Module) -> None:
    """Lets every attention of Wan's blocks be two products and a softmax. For training in bfloat16 on a CPU."""
    for module in model.modules():
        if isinstance(module, WanAttention) and module.is_cross_attention:
            module.processor.use_matmul = True
        elif isinstance(module, WanAttention):
            module.set_processor(MatmulSelfAttnProcessor())


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V in the dtype of products: (B, S, h, d), (B, T, h, d) twice -> (B, S, h, d).

    Where the logits would be more than `MAX_LOGITS`, PyTorch's own attention, which holds a few of them at a time.

    Args:
        mask: of bool, broadcast to (B, h, S, T); True attends. Every query has a key that it attends to.
    """
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # (B, h, S, d)
    if query.shape[:3].numel() * key.shape[2] > MAX_LOGITS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return (logits.softmax(dim=-1) @ value).transpose(1, 2)


def float32_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V: (B, S, h, d), (B, T, h, d) twice -> (B, S, h, d) float32."""
    query, key, value = (tensor.float().transpose(1, 2) for tensor in (query, key, value))
    with _onednn_bf16_matmul():
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def float32_rms_norm(norm: nn.RMSNorm, tensor: Tensor) -> Tensor:
    """(B, S, dim) of another dtype -> float32; torch's own norm takes three passes over the tokens more."""
    assert tensor.dtype is not torch.float32 and norm.eps is not None
    tensor = tensor.float()
    squares = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True).square_() / tensor.shape[-1]
    return tensor.mul_((squares + norm.eps).rsqrt_()).mul_(norm.weight.float())


class RotarySelfAttnProcessor(WanAttnProcessor):
    """Wan's self-attention, rotated in float32."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, S, dim) -> (B, S, dim); `rotary_emb` holds cosines and sines, (1, S, 1, d) each, every one twice."""
        assert encoder_hidden_states is None and attention_mask is None and rotary_emb is not None
        assert self._parallel_config is None, "context parallelism has an attention of its own"
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in self.project(attn, hidden_states))
        rotation = torch.complex(*(part[..., ::2].float().contiguous() for part in rotary_emb))
        attended = self.attend(_apply_rotary_emb(query, rotation), _apply_rotary_emb(key, rotation), value)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3).type_as(value)))

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, dim) -> queries and keys, both normalised, and values."""
        raise NotImplementedError

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries and keys come in float32: (B, S, h, d) each -> (B, S, h, d)."""
        raise NotImplementedError


class Float32SelfAttnProcessor(RotarySelfAttnProcessor):
    """In float32. Without gradients."""

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Norms in float32."""
        query = float32_rms_norm(attn.norm_q, attn.to_q(hidden_states))
        return query, float32_rms_norm(attn.norm_k, attn.to_k(hidden_states)), attn.to_v(hidden_states)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `float32_attention`."""
        return float32_attention(query, key, value)


class MatmulSelfAttnProcessor(RotarySelfAttnProcessor):
    """By plain products."""

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Under autocast the tokens are cast once, and not for each projection."""
        if torch.is_autocast_enabled("cpu"):
            hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        return query, key, attn.to_v(hidden_states)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `matmul_attention`, in the dtype of the values."""
        return matmul_attention(query.type_as(value), key.type_as(value), value)


def _apply_rotary_emb(tensor: Tensor, rotation: Tensor) -> Tensor:
    """Neighbouring channels as real and imaginary parts, turned: (B, S, h, d) -> the same in float32."""
    turned = torch.view_as_complex(tensor.float().unflatten(-1, (-1, 2))) * rotation
    return torch.view_as_real(turned).flatten(-2)


@contextmanager
def _onednn_bf16_matmul() -> Iterator[None]:
    before = ONEDNN_MATMUL.fp32_precision
    ONEDNN_MATMUL.fp32_precision = "bf16"
    try:
        yield
    finally:
        ONEDNN_MATMUL.fp32_precision = before

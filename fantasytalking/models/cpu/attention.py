"""CPU attention for bfloat16 models: float32 with oneDNN for inference, explicit matrix products for training.

PyTorch multiplies the bfloat16 matrices of a linear layer with the processor's bfloat16 instructions, but not those of
its attention on processors without AMX: that runs as slowly as float32 while it rounds logits and weights. For
inference, queries, keys and values are cast to float32 and the products are left to oneDNN, which may use bfloat16
instructions where the processor has them: faster, and closer to the float32 model.

The backward pass of that attention takes seven times as long as its forward pass, and PyTorch's unfused one
(`_native_math`) spends most of its time on copies and on rows of padding. Training uses explicit matrix products.

Axes: B batch, S queries, T keys, h heads, d head_dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.cross_attention import PortraitAttnProcessor, PortraitCrossAttention
from fantasytalking.models.diffusers_internals import is_context_parallel

ONEDNN_MATMUL = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
"""oneDNN's settings for products of float32 matrices."""
MAX_LOGITS = 2**27
"""Largest number of logits that `matmul_attention` stores: 256 MiB in bfloat16, and as much for their gradient."""


def use_float32_attention(model: nn.Module) -> None:
    """Makes every attention of Wan's blocks compute in float32. For inference with a bfloat16 model on a CPU."""
    for module in model.modules():
        if isinstance(module, PortraitCrossAttention):
            module.set_processor(Float32PortraitAttnProcessor())
        elif isinstance(module, WanAttention):
            module.set_processor(Float32SelfAttnProcessor())


def use_matmul_attention(model: nn.Module) -> None:
    """Makes every attention of Wan's blocks two products and a softmax. For training in bfloat16 on a CPU."""
    for module in model.modules():
        if isinstance(module, PortraitCrossAttention):
            module.set_processor(MatmulPortraitAttnProcessor())
        elif isinstance(module, WanAttention):
            module.set_processor(MatmulSelfAttnProcessor())


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V by explicit products: (B, S, h, d), (B, T, h, d) twice -> (B, S, h, d).

    Above `MAX_LOGITS` logits, PyTorch's attention computes it, which stores only a few of them at a time.

    Args:
        mask: bool, broadcast to (B, h, S, T); True = attend. Every query must have at least one key.
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
    """RMS norm of a lower-precision tensor: (B, S, dim) -> float32, in three passes fewer than torch's norm."""
    assert tensor.dtype is not torch.float32 and norm.eps is not None
    tensor = tensor.float()
    squares = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True).square_() / tensor.shape[-1]
    return tensor.mul_((squares + norm.eps).rsqrt_()).mul_(norm.weight.float())


class Float32PortraitAttnProcessor(PortraitAttnProcessor):
    """The paper's cross-attention in float32. Without gradients."""

    def project_query(self, attn: PortraitCrossAttention, hidden_states: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, h, d) float32, normalized."""
        return float32_rms_norm(attn.norm_q, attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`float32_attention`, independent of the selected backend."""
        return float32_attention(query, key, value)


class MatmulPortraitAttnProcessor(PortraitAttnProcessor):
    """The paper's cross-attention as explicit matrix products."""

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`matmul_attention`, independent of the selected backend."""
        return matmul_attention(query, key, value)

    def masked_attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """`matmul_attention` with a mask."""
        return matmul_attention(query, key, value, mask)


class RotarySelfAttnProcessor(WanAttnProcessor):
    """Wan's self-attention with rotary embeddings applied in float32."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, S, dim) -> (B, S, dim); `rotary_emb` is (cosines, sines), (1, S, 1, d) each, every value twice."""
        assert encoder_hidden_states is None and attention_mask is None and rotary_emb is not None
        assert not is_context_parallel(self), "context parallelism has an attention of its own"
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in self.project(attn, hidden_states))
        rotation = torch.complex(*(part[..., ::2].float().contiguous() for part in rotary_emb))
        attended = self.attend(_apply_rotary_emb(query, rotation), _apply_rotary_emb(key, rotation), value)
        return attn.to_out[1](attn.to_out[0](attended.flatten(2, 3).type_as(value)))

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, dim) -> normalized queries, normalized keys and values, (B, S, dim) each."""
        raise NotImplementedError

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, S, h, d) each -> (B, S, h, d); queries and keys are float32."""
        raise NotImplementedError


class Float32SelfAttnProcessor(RotarySelfAttnProcessor):
    """Wan's self-attention in float32. Without gradients."""

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections with norms in float32."""
        query = float32_rms_norm(attn.norm_q, attn.to_q(hidden_states))
        return query, float32_rms_norm(attn.norm_k, attn.to_k(hidden_states)), attn.to_v(hidden_states)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`float32_attention`."""
        return float32_attention(query, key, value)


class MatmulSelfAttnProcessor(RotarySelfAttnProcessor):
    """Wan's self-attention as explicit matrix products."""

    def project(self, attn: WanAttention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections; under autocast the tokens are cast once instead of once per projection."""
        if torch.is_autocast_enabled("cpu"):
            hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        return query, key, attn.to_v(hidden_states)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`matmul_attention` in the dtype of the values."""
        return matmul_attention(query.type_as(value), key.type_as(value), value)


def _apply_rotary_emb(tensor: Tensor, rotation: Tensor) -> Tensor:
    """Rotates pairs of neighboring channels as complex numbers: (B, S, h, d) -> (B, S, h, d) float32."""
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

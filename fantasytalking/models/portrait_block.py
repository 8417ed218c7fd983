"""A block of Wan with the paper's cross-attention, and the same block in fewer passes over its tokens.

Where matrix products are fast, what lies between them counts: every pass over the tokens reads and writes them all.
"""

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.cross_attention import BlockConditions, PortraitCrossAttention


class PortraitBlock(WanTransformerBlock):
    """Wan's block with `PortraitCrossAttention`; its `encoder_hidden_states` is a `BlockConditions`."""

    fused: bool = False
    """Set by `fuse_blocks`: norms take their scale and shift along, and residuals their gate, without gradients and
    where all samples have one timestep. Equal to Wan's order of operations up to rounding."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str,
        cross_attn_norm: bool,
        eps: float,
        added_kv_proj_dim: int | None,
        audio_token_dim: int,
        face_token_dim: int,
    ) -> None:
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        self.attn2 = PortraitCrossAttention(dim, num_heads, eps, added_kv_proj_dim, audio_token_dim, face_token_dim)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: BlockConditions,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
    ) -> Tensor:
        """(B, S, dim) -> (B, S, dim); `temb` is (B or 1, 6, dim)."""
        if not self.fused or torch.is_grad_enabled() or temb.shape[0] != 1:
            return super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
        table = (self.scale_shift_table + temb.float())[0]  # (6, dim)
        shift, scale, gate, feed_shift, feed_scale, feed_gate = table.unbind(0)
        normed = _modulated_norm(self.norm1, hidden_states, 1 + scale, shift)
        attended = self.attn1(normed, None, None, rotary_emb)
        hidden_states = torch.addcmul(hidden_states, attended, gate.type_as(attended))

        normed = hidden_states
        if isinstance(self.norm2, nn.LayerNorm):
            normed = _modulated_norm(self.norm2, hidden_states, self.norm2.weight, self.norm2.bias)
        hidden_states = hidden_states + self.attn2(normed, encoder_hidden_states, None, None)

        normed = _modulated_norm(self.norm3, hidden_states, 1 + feed_scale, feed_shift)
        return hidden_states.addcmul_(self.ffn(normed), feed_gate.type_as(hidden_states))


# Step caches (first block, MagCache) look a block's signature up by its class.
TransformerBlockRegistry.register(
    PortraitBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)


class FusedGELU(nn.Module):
    """The first half of a feed-forward: a bfloat16 product takes GELU by tanh along, computed before it is rounded."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, ffn_dim)."""
        weight = self.proj.weight
        plain = type(self.proj) is nn.Linear and type(weight) is nn.Parameter  # neither LoRA nor quantised
        if not plain or hidden_states.dtype is not torch.bfloat16 or torch.is_grad_enabled():
            return F.gelu(self.proj(hidden_states), approximate="tanh")
        # The operator of torch.compile's own code for CPUs; nothing public reaches it.
        return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, self.proj.bias, "gelu", [], "tanh")


def fuse_blocks(model: nn.Module) -> None:
    """Lets every block work in fewer passes over its tokens. For inference on a CPU."""
    for module in model.modules():
        if isinstance(module, PortraitBlock):
            module.fused = True
            module.ffn.net[0] = FusedGELU(module.ffn.net[0].proj)


def _modulated_norm(norm: nn.LayerNorm, hidden_states: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(B, S, dim) normalised, times scale (dim,) plus shift (dim,), in one pass that computes in float32."""
    return F.layer_norm(hidden_states, norm.normalized_shape, scale.float(), shift.float(), norm.eps)

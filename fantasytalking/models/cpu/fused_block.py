"""The transformer block in fewer passes over its tokens, for CPU inference.

Where matrix products are fast, the operations between them dominate: each pass reads and writes all tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.cross_attention import BlockConditions
from fantasytalking.models.diffusers_internals import linear_gelu_tanh, register_step_cache_block
from fantasytalking.models.portrait_block import PortraitBlock


def fuse_blocks(model: nn.Module) -> None:
    """Replaces every `PortraitBlock` by a `FusedPortraitBlock` on the same parameters. For inference on a CPU.

    Apply it before `enable_cache`, `enable_parallelism` and offloading, whose hooks wrap the forward of a block.
    """
    for module in model.modules():
        if type(module) is PortraitBlock:
            assert "forward" not in vars(module), "fuse_blocks precedes hooks on the blocks"
            module.__class__ = FusedPortraitBlock  # in place, so that references to the block stay valid
            module.ffn.net[0] = FusedGELU(module.ffn.net[0].proj)


class FusedPortraitBlock(PortraitBlock):
    """`PortraitBlock` whose norms include scale and shift, and whose residuals include the gate.

    Used without gradients and with one timestep for all samples and tokens; otherwise `PortraitBlock.forward` runs.
    Both are equal up to rounding.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: BlockConditions,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
    ) -> Tensor:
        """(B, S, dim) -> (B, S, dim); `temb` is (B or 1, 6, dim)."""
        if torch.is_grad_enabled() or temb.shape[0] != 1 or temb.ndim == 4:
            return super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
        table = (self.scale_shift_table + temb.float())[0]  # (6, dim)
        shift, scale, gate, feed_shift, feed_scale, feed_gate = table.unbind(0)

        # 1. Self-attention
        normed = _modulated_norm(self.norm1, hidden_states, 1 + scale, shift)
        attended = self.attn1(normed, None, None, rotary_emb)
        hidden_states = torch.addcmul(hidden_states, attended, gate.type_as(attended))

        # 2. Cross-attention
        normed = hidden_states
        if isinstance(self.norm2, nn.LayerNorm):
            normed = _modulated_norm(self.norm2, hidden_states, self.norm2.weight, self.norm2.bias)
        hidden_states = hidden_states + self.attn2(normed, encoder_hidden_states, None, None)

        # 3. Feed-forward
        normed = _modulated_norm(self.norm3, hidden_states, 1 + feed_scale, feed_shift)
        return hidden_states.addcmul_(self.ffn(normed), feed_gate.type_as(hidden_states))


register_step_cache_block(FusedPortraitBlock)


class FusedGELU(nn.Module):
    """First half of a feed-forward layer, linear and GELU (tanh) in one kernel for bfloat16 without gradients."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, ffn_dim)."""
        if (
            type(self.proj) is nn.Linear
            and type(self.proj.weight) is nn.Parameter  # neither LoRA nor quantized
            and hidden_states.dtype is torch.bfloat16
            and not torch.is_grad_enabled()
        ):
            return linear_gelu_tanh(hidden_states, self.proj.weight, self.proj.bias)
        return F.gelu(self.proj(hidden_states), approximate="tanh")


def _modulated_norm(norm: nn.LayerNorm, hidden_states: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm, times scale (dim,) plus shift (dim,), in one pass that computes in float32: (B, S, dim) -> same."""
    return F.layer_norm(hidden_states, norm.normalized_shape, scale.float(), shift.float(), norm.eps)

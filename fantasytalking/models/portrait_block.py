"""Wan's transformer block with the paper's cross-attention."""

from collections.abc import Mapping

from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from fantasytalking.models.cross_attention import PortraitCrossAttention
from fantasytalking.models.diffusers_internals import register_step_cache_block


class PortraitBlock(WanTransformerBlock):
    """Wan's block with `PortraitCrossAttention`; its `encoder_hidden_states` is a `BlockConditions`.

    Args:
        dim ... added_kv_proj_dim: as in diffusers' WanTransformerBlock.
        token_dims: width of the tokens by condition with decoupled attention.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str,
        cross_attn_norm: bool,
        eps: float,
        added_kv_proj_dim: int | None,
        token_dims: Mapping[str, int],
    ) -> None:
        super().__init__(
            dim=dim,
            ffn_dim=ffn_dim,
            num_heads=num_heads,
            qk_norm=qk_norm,
            cross_attn_norm=cross_attn_norm,
            eps=eps,
            added_kv_proj_dim=added_kv_proj_dim,
        )
        self.attn2 = PortraitCrossAttention(
            dim=dim,
            heads=num_heads,
            eps=eps,
            added_kv_proj_dim=added_kv_proj_dim,
            token_dims=token_dims,
        )


register_step_cache_block(PortraitBlock)

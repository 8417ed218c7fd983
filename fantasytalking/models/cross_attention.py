"""Wan's cross-attention with decoupled attention to audio, face and expression (paper sections 3.1 and 3.3).

Axes: B batch, S video tokens (of this rank), W windows, n video tokens in a window, L condition tokens in a window,
h heads, d head_dim.
"""

from collections.abc import Mapping
from typing import NamedTuple

from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.attention_windows import WindowedAttention
from fantasytalking.models.diffusers_internals import AttnProcessorState
from fantasytalking.models.kv_cache import KeyValue


class KVCapture:
    """Receives the keys and values that a block computed. A mutable object, because offloading hooks copy lists."""

    value: dict[str, KeyValue] | None = None


class BlockConditions(NamedTuple):
    """Inputs of one block's cross-attention, passed as Wan's `encoder_hidden_states`; mappings are by condition."""

    tokens: dict[str, Tensor]
    """(B, N, token_dim), of a windowed condition (B, W, L, token_dim). Text and image have the width of the model."""
    windows: dict[str, WindowedAttention]
    """Of windowed conditions: which video tokens attend to which windows."""
    scales: dict[str, Tensor]
    """(B,) weights of the decoupled attentions."""
    keys_values: dict[str, KeyValue]
    """Keys and values already computed for this block."""
    capture: KVCapture | None = None
    """If given, the block stores its keys and values here for the next steps."""


class PortraitAttnProcessor(AttnProcessorState):
    """Z' = Z + l1 Attn(Q, K_audio, V_audio) + l2 Attn(Q, K_face, V_face), Z = text and image attention (3.1, 3.3).

    One query serves all attentions, which are summed before the shared output projection. Expression attention, if
    present, is added in the same way. The selected attention backend computes text, image and face. Audio and
    expression have padding and regions, which several backends ignore or reject, so they always run on PyTorch's
    native backend, which applies a mask on every device. They have few keys, so the cost is negligible.
    """

    def __call__(
        self,
        attn: "PortraitCrossAttention",
        hidden_states: Tensor,
        encoder_hidden_states: BlockConditions,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, S, dim) -> (B, S, dim)."""
        assert attention_mask is None and rotary_emb is None, "Wan's cross-attention has neither mask nor rotation"
        conditions = encoder_hidden_states
        query = self.project_query(attn, hidden_states)  # (B, S, h, d)
        keys_values = attn.project_keys_values(conditions)
        if conditions.capture is not None:
            conditions.capture.value = keys_values

        # 1. Wan: image and text
        image = self._attend(query, keys_values["image"]) if "image" in keys_values else None
        attended = self._attend(query, keys_values["text"])
        if image is not None:
            attended = attended + image

        # 2. Decoupled attention: audio, face and what else the model has
        for name, scale in conditions.scales.items():
            attended = attended + scale.to(query.dtype)[:, None, None] * (
                self._attend_windows(query, keys_values[name], conditions.windows[name])
                if name in conditions.windows
                else self._attend(query, keys_values[name])
            )

        # 3. Shared output projection
        return attn.to_out[1](attn.to_out[0](attended.type_as(hidden_states)))

    def project_query(self, attn: "PortraitCrossAttention", hidden_states: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S, h, d), normalized."""
        return attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V on the selected backend: (B, S, h, d), (B, L, h, d) twice -> (B, S, h, d)."""
        # Autocast keeps the output of a norm in float32, which backends other than PyTorch's reject.
        half = (query.to(value.dtype), key.to(value.dtype), value)
        return dispatch_attention_fn(*half, backend=self.attention_backend)

    def masked_attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """`attention` limited to the keys where `mask`, bool, broadcast to (B, h, S, L), is True."""
        return dispatch_attention_fn(query, key, value, attn_mask=mask, backend=AttentionBackendName.NATIVE)

    def _attend(self, query: Tensor, key_value: KeyValue) -> Tensor:
        """(B, S, h, d) -> (B, S, h d); a query of one sample serves all samples of the keys."""
        batch = max(query.shape[0], key_value[0].shape[0])
        query, key, value = (_repeat_batch(tensor, batch) for tensor in (query, *key_value))
        return self.attention(query, key, value).flatten(2, 3).type_as(query)

    def _attend_windows(self, query: Tensor, key_value: KeyValue, windows: WindowedAttention) -> Tensor:
        """Each window's video tokens attend to that window's unmasked tokens: (B, S, h, d) -> (B, S, h d)."""
        span, num_tokens, batch = windows.span, query.shape[1], query.shape[0]
        if span.pad_front or span.pad_back:
            query = F.pad(query, (0, 0, 0, 0, span.pad_front, span.pad_back))
        query = rearrange(query, "b (w n) h d -> (b w) n h d", w=span.num_windows)
        key, value = (_repeat_batch(tensor, query.shape[0]).type_as(query) for tensor in key_value)
        mask = _repeat_batch(windows.mask, batch).flatten(0, 1)  # (B W, 1 or n, L)
        has_key = mask.any(dim=-1, keepdim=True)
        # A video token without any key attends to all, so that the softmax is defined; its output is set to zero.
        attended = self.masked_attention(query, key, value, (mask | ~has_key)[:, None])
        attended = attended.masked_fill(~has_key[..., None], 0.0)
        attended = rearrange(attended, "(b w) n h d -> b (w n) (h d)", w=span.num_windows)
        return attended[:, span.pad_front : span.pad_front + num_tokens].type_as(query)


class PortraitCrossAttention(WanAttention):
    """Wan's text and image cross-attention with decoupled keys and values of further conditions.

    New value projections are zero, so that they add nothing; new key projections are random, so that they train from
    the first step. Decoupled keys are not normalized (released code).

    Args:
        dim, heads, eps, added_kv_proj_dim: as in diffusers' WanTransformerBlock.
        token_dims: width of the tokens by condition.
    """

    _default_processor_cls = PortraitAttnProcessor
    _available_processors = (PortraitAttnProcessor,)

    def __init__(
        self,
        dim: int,
        heads: int,
        eps: float,
        added_kv_proj_dim: int | None,
        token_dims: Mapping[str, int],
    ) -> None:
        super().__init__(
            dim=dim,
            heads=heads,
            dim_head=dim // heads,
            eps=eps,
            added_kv_proj_dim=added_kv_proj_dim,
            cross_attention_dim_head=dim // heads,
            processor=PortraitAttnProcessor(),
        )
        self.decoupled: tuple[str, ...] = ()
        """Conditions with keys and values of their own."""
        self.add_conditions(token_dims)

    def add_conditions(self, token_dims: Mapping[str, int]) -> None:
        """Adds new key and value projections, `NAME_k_proj` and `NAME_v_proj`, by condition and width of its tokens."""
        like = (self.pair(self.decoupled[0])[1] if self.decoupled else self.to_v).weight
        for name, token_dim in token_dims.items():
            for kind in "kv":
                projection = nn.Linear(token_dim, len(like), bias=False, device=like.device, dtype=like.dtype)
                setattr(self, f"{name}_{kind}_proj", projection)
        self.decoupled += tuple(token_dims)
        for name in token_dims:
            self._reset_pair(name)

    def reset_decoupled_parameters(self) -> None:
        """Initializes the decoupled projections: keys for logits of unit variance, values zero."""
        for name in self.decoupled:
            self._reset_pair(name)

    def pair(self, name: str) -> tuple[nn.Linear, nn.Linear]:
        """Returns the key and value projections of a condition with decoupled attention."""
        return getattr(self, f"{name}_k_proj"), getattr(self, f"{name}_v_proj")

    def project_keys_values(self, conditions: BlockConditions) -> dict[str, KeyValue]:
        """Returns keys and values of every condition, computing those that `conditions.keys_values` lacks."""
        known = conditions.keys_values
        return {
            name: known[name] if name in known else self._project(name, tokens)
            for name, tokens in conditions.tokens.items()
        }

    def fuse_projections(self) -> None:
        """Does nothing: keys and values are projected once per video, and only the query remains."""

    def _project(self, name: str, tokens: Tensor) -> KeyValue:
        if name == "text":
            return self._split_heads(self.norm_k(self.to_k(tokens)), self.to_v(tokens))
        if name == "image":
            assert self.add_k_proj is not None and self.add_v_proj is not None
            return self._split_heads(self.norm_added_k(self.add_k_proj(tokens)), self.add_v_proj(tokens))
        to_key, to_value = self.pair(name)
        if tokens.ndim == 4:
            tokens = tokens.flatten(0, 1)  # (B W, L, token_dim)
        return self._split_heads(to_key(tokens), to_value(tokens))

    def _reset_pair(self, name: str) -> None:
        to_key, to_value = self.pair(name)
        nn.init.normal_(to_key.weight, std=to_key.in_features**-0.5)
        nn.init.zeros_(to_value.weight)

    def _split_heads(self, key: Tensor, value: Tensor) -> KeyValue:
        return key.unflatten(2, (self.heads, -1)), value.unflatten(2, (self.heads, -1))


def _repeat_batch(tensor: Tensor, batch: int) -> Tensor:
    """Repeats a condition that is given once for the whole batch."""
    if tensor.shape[0] == batch:
        return tensor
    return tensor.repeat(batch // tensor.shape[0], *[1] * (tensor.ndim - 1))

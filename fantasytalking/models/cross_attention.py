"""Wan's cross-attention with decoupled attention to audio, face and expression (paper sections 3.1 and 3.3).

Axes: B batch, S video tokens (of this rank), W windows, n video tokens in a window, L condition tokens in a window,
h heads, d head_dim.
"""

from typing import NamedTuple

from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.attention_windows import WindowedAttention
from fantasytalking.models.diffusers_internals import AttnProcessorState
from fantasytalking.models.kv_cache import ConditionTokens, KeysValues, KeyValue


class KVCapture:
    """Receives the keys and values that a block computed. A mutable object, because offloading hooks copy lists."""

    value: KeysValues | None = None


class BlockConditions(NamedTuple):
    """Inputs of one block's cross-attention, passed as Wan's `encoder_hidden_states`."""

    tokens: ConditionTokens
    audio: WindowedAttention
    scale: Tensor
    """(B, 2) weights of audio and face attention."""
    expression: WindowedAttention | None = None
    expression_scale: Tensor | None = None
    """(B,) weight of expression attention."""
    keys_values: KeysValues = KeysValues()
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
        assert keys_values.text is not None and keys_values.audio is not None and keys_values.face is not None
        image = self._attend(query, keys_values.image) if keys_values.image is not None else None
        attended = self._attend(query, keys_values.text)
        if image is not None:
            attended = attended + image

        # 2. Decoupled attention to audio, face and expression
        audio_scale, face_scale = conditions.scale.to(query.dtype)[:, :, None, None].unbind(1)  # (B, 1, 1) each
        attended = attended + audio_scale * self._attend_windows(query, keys_values.audio, conditions.audio)
        attended = attended + face_scale * self._attend(query, keys_values.face)
        if conditions.expression is not None:
            assert keys_values.expression is not None and conditions.expression_scale is not None
            expression_scale = conditions.expression_scale.to(query.dtype)[:, None, None]
            expression = self._attend_windows(query, keys_values.expression, conditions.expression)
            attended = attended + expression_scale * expression

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
    """Wan's text and image cross-attention with keys and values of audio, face and, once added, expression.

    New value projections are zero, so that they add nothing; new key projections are random, so that they train from
    the first step. Keys of audio, face and expression are not normalized (released code).
    """

    _default_processor_cls = PortraitAttnProcessor
    _available_processors = (PortraitAttnProcessor,)

    def __init__(
        self,
        dim: int,
        heads: int,
        eps: float,
        added_kv_proj_dim: int | None,
        audio_token_dim: int,
        face_token_dim: int,
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
        self.audio_k_proj = nn.Linear(audio_token_dim, dim, bias=False)
        self.audio_v_proj = nn.Linear(audio_token_dim, dim, bias=False)
        self.face_k_proj = nn.Linear(face_token_dim, dim, bias=False)
        self.face_v_proj = nn.Linear(face_token_dim, dim, bias=False)
        self.reset_audio_parameters()
        self.reset_face_parameters()
        self.has_expression = False

    def add_expression_projections(self, token_dim: int) -> None:
        """Adds new key and value projections of expression tokens of width `token_dim`."""
        like = self.face_v_proj.weight
        self.expression_k_proj = nn.Linear(token_dim, len(like), bias=False, device=like.device, dtype=like.dtype)
        self.expression_v_proj = nn.Linear(token_dim, len(like), bias=False, device=like.device, dtype=like.dtype)
        self.has_expression = True
        self.reset_expression_parameters()

    def reset_audio_parameters(self) -> None:
        """Initializes the audio projections: keys for logits of unit variance, values zero."""
        nn.init.normal_(self.audio_k_proj.weight, std=self.audio_k_proj.in_features**-0.5)
        nn.init.zeros_(self.audio_v_proj.weight)

    def reset_face_parameters(self) -> None:
        """Initializes the face projections: keys for logits of unit variance, values zero."""
        nn.init.normal_(self.face_k_proj.weight, std=self.face_k_proj.in_features**-0.5)
        nn.init.zeros_(self.face_v_proj.weight)

    def reset_expression_parameters(self) -> None:
        """Initializes the expression projections: keys for logits of unit variance, values zero."""
        nn.init.normal_(self.expression_k_proj.weight, std=self.expression_k_proj.in_features**-0.5)
        nn.init.zeros_(self.expression_v_proj.weight)

    def project_keys_values(self, conditions: BlockConditions) -> KeysValues:
        """Returns keys and values of every condition, computing those that `conditions.keys_values` lacks."""
        known, tokens = conditions.keys_values, conditions.tokens
        return KeysValues(
            text=known.text or self._split_heads(self.norm_k(self.to_k(tokens.text)), self.to_v(tokens.text)),
            image=known.image or (None if tokens.image is None else self._image_key_value(tokens.image)),
            audio=known.audio or self._window_key_value(tokens.audio, self.audio_k_proj, self.audio_v_proj),
            face=known.face or self._split_heads(self.face_k_proj(tokens.face), self.face_v_proj(tokens.face)),
            expression=known.expression or self._expression_key_value(tokens.expression),
        )

    def fuse_projections(self) -> None:
        """Does nothing: keys and values are projected once per video, and only the query remains."""

    def _image_key_value(self, image: Tensor) -> KeyValue:
        assert self.add_k_proj is not None and self.add_v_proj is not None
        return self._split_heads(self.norm_added_k(self.add_k_proj(image)), self.add_v_proj(image))

    def _expression_key_value(self, expression: Tensor | None) -> KeyValue | None:
        if expression is None:
            return None
        return self._window_key_value(expression, self.expression_k_proj, self.expression_v_proj)

    def _window_key_value(self, tokens: Tensor, to_key: nn.Linear, to_value: nn.Linear) -> KeyValue:
        tokens = tokens.flatten(0, 1)  # (B W, L, token_dim)
        return self._split_heads(to_key(tokens), to_value(tokens))

    def _split_heads(self, key: Tensor, value: Tensor) -> KeyValue:
        return key.unflatten(2, (self.heads, -1)), value.unflatten(2, (self.heads, -1))


def _repeat_batch(tensor: Tensor, batch: int) -> Tensor:
    """Repeats a condition that is given once for the whole batch."""
    if tensor.shape[0] == batch:
        return tensor
    return tensor.repeat(batch // tensor.shape[0], *[1] * (tensor.ndim - 1))

"""Wan's cross-attention with decoupled attention to audio, face and expression on the same query (paper 3.1 and 3.3).

Axes: B batch, S video tokens (of this rank), W windows, n video tokens in a window, L condition tokens in a window,
h heads, d head_dim.
"""

from typing import Any, NamedTuple

from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.models.attention_windows import WindowedAttention
from fantasytalking.models.cpu.attention import float32_attention, float32_rms_norm, matmul_attention
from fantasytalking.models.kv_cache import ConditionTokens, KeysValues, KeyValue


class KVCapture:
    """A place for what a block computed. An object of its own, since offloading hooks copy lists on the way in."""

    value: KeysValues | None = None


class BlockConditions(NamedTuple):
    """What one block's cross-attention reads; it stands in the place of Wan's `encoder_hidden_states`."""

    tokens: ConditionTokens
    audio: WindowedAttention
    scale: Tensor
    """(B, 2) weight of audio and of face attention."""
    expression: WindowedAttention | None = None
    expression_scale: Tensor | None = None
    """(B,) weight of the expression attention."""
    keys_values: KeysValues = KeysValues()
    """Those already computed for this block."""
    capture: KVCapture | None = None
    """When given, the block leaves its keys and values here, for the next steps."""


class PortraitAttnProcessor:
    """Text + image + audio + face attention with one query, summed before the shared output projection.

    Where an expression drives faces, its attention is added to them. The chosen attention backend computes text, image
    and face. Audio and expression have padding and regions, which several backends ignore or refuse, so they always run
    on the one that honours a mask on every device: whether a token is padding never depends on the backend. They have
    few keys, so this costs nothing.
    """

    # Set by diffusers' set_attention_backend and enable_parallelism.
    _attention_backend: Any = None
    _parallel_config: Any = None
    use_float32: bool = False
    """Set by `use_float32_attention`."""
    use_matmul: bool = False
    """Set by `use_matmul_attention`."""

    def __call__(
        self,
        attn: "PortraitCrossAttention",
        hidden_states: Tensor,
        encoder_hidden_states: BlockConditions,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        assert attention_mask is None and rotary_emb is None, "Wan's cross-attention has neither mask nor rotation"
        conditions = encoder_hidden_states
        query = attn.to_q(hidden_states)
        query = float32_rms_norm(attn.norm_q, query) if self.use_float32 else attn.norm_q(query)
        query = query.unflatten(2, (attn.heads, -1))  # (B, S, h, d)
        keys_values = attn.project_keys_values(conditions)
        if conditions.capture is not None:
            conditions.capture.value = keys_values

        # 1. Wan's own: image and text
        assert keys_values.text is not None and keys_values.audio is not None and keys_values.face is not None
        image = self._attend(query, keys_values.image) if keys_values.image is not None else None
        attended = self._attend(query, keys_values.text)
        if image is not None:
            attended = attended + image

        # 2. Ours: Z' = Z + l1 Attn(Q, K_audio, V_audio) + l2 Attn(Q, K_face, V_face)
        audio_scale, face_scale = conditions.scale.to(query.dtype)[:, :, None, None].unbind(1)  # (B, 1, 1) each
        attended = attended + audio_scale * self._attend_windows(query, keys_values.audio, conditions.audio)
        attended = attended + face_scale * self._attend(query, keys_values.face)
        if conditions.expression is not None:
            assert keys_values.expression is not None and conditions.expression_scale is not None
            expression_scale = conditions.expression_scale.to(query.dtype)[:, None, None]
            driven = self._attend_windows(query, keys_values.expression, conditions.expression)
            attended = attended + expression_scale * driven

        # 3. Shared output projection
        return attn.to_out[1](attn.to_out[0](attended.type_as(hidden_states)))

    def _attend(self, query: Tensor, key_value: KeyValue) -> Tensor:
        """(B, S, h, d) -> (B, S, h d); a query of one sample serves all samples of the keys."""
        batch = max(query.shape[0], key_value[0].shape[0])
        query, key, value = (_repeat_batch(tensor, batch) for tensor in (query, *key_value))
        if self.use_float32:
            attended = float32_attention(query, key, value)
        elif self.use_matmul:
            attended = matmul_attention(query, key, value)
        else:
            # Autocast leaves what comes from a norm in float32, which kernels other than PyTorch's refuse.
            half = (query.to(value.dtype), key.to(value.dtype), value)
            attended = dispatch_attention_fn(*half, backend=self._attention_backend)
        return attended.flatten(2, 3).type_as(query)

    def _attend_windows(self, query: Tensor, key_value: KeyValue, windows: WindowedAttention) -> Tensor:
        """Each window's video tokens attend to that window's unmasked tokens: (B, S, h, d) -> (B, S, h d)."""
        span, num_tokens, batch = windows.span, query.shape[1], query.shape[0]
        if span.pad_front or span.pad_back:
            query = F.pad(query, (0, 0, 0, 0, span.pad_front, span.pad_back))
        query = rearrange(query, "b (w n) h d -> (b w) n h d", w=span.num_windows)
        key, value = (_repeat_batch(tensor, query.shape[0]).type_as(query) for tensor in key_value)
        mask = _repeat_batch(windows.mask, batch).flatten(0, 1)  # (B W, 1 or n, L)
        heard = mask.any(dim=-1, keepdim=True)
        # A video token without a single one to attend to: let the softmax run, then give zero.
        allowed = (mask | ~heard)[:, None]
        if self.use_matmul:
            attended = matmul_attention(query, key, value, allowed)
        else:
            native = AttentionBackendName.NATIVE
            attended = dispatch_attention_fn(query, key, value, attn_mask=allowed, backend=native)
        attended = attended.masked_fill(~heard[..., None], 0.0)
        attended = rearrange(attended, "(b w) n h d -> b (w n) (h d)", w=span.num_windows)
        return attended[:, span.pad_front : span.pad_front + num_tokens].type_as(query)


class PortraitCrossAttention(WanAttention):
    """Wan's text and image cross-attention plus keys and values of audio, of face and, once added, of expression.

    Fresh value projections are zero, so that nothing is added; fresh key projections are random, so that they train
    from the first step on. Keys of audio, face and expression are not normalised (released code).
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
        """Gives it fresh keys and values of expression tokens of this width."""
        like = self.face_v_proj.weight
        self.expression_k_proj = nn.Linear(token_dim, len(like), bias=False, device=like.device, dtype=like.dtype)
        self.expression_v_proj = nn.Linear(token_dim, len(like), bias=False, device=like.device, dtype=like.dtype)
        self.has_expression = True
        self.reset_expression_parameters()

    def reset_audio_parameters(self) -> None:
        """Fresh audio projections: logits of unit variance, values zero."""
        nn.init.normal_(self.audio_k_proj.weight, std=self.audio_k_proj.in_features**-0.5)
        nn.init.zeros_(self.audio_v_proj.weight)

    def reset_face_parameters(self) -> None:
        """Fresh face projections: logits of unit variance, values zero."""
        nn.init.normal_(self.face_k_proj.weight, std=self.face_k_proj.in_features**-0.5)
        nn.init.zeros_(self.face_v_proj.weight)

    def reset_expression_parameters(self) -> None:
        """Fresh expression projections: logits of unit variance, values zero."""
        nn.init.normal_(self.expression_k_proj.weight, std=self.expression_k_proj.in_features**-0.5)
        nn.init.zeros_(self.expression_v_proj.weight)

    def project_keys_values(self, conditions: BlockConditions) -> KeysValues:
        """Keys and values of every condition: those already known, the others computed."""
        known, tokens = conditions.keys_values, conditions.tokens
        return KeysValues(
            text=known.text or self._split_heads(self.norm_k(self.to_k(tokens.text)), self.to_v(tokens.text)),
            image=known.image or (None if tokens.image is None else self._image_key_value(tokens.image)),
            audio=known.audio or self._window_key_value(tokens.audio, self.audio_k_proj, self.audio_v_proj),
            face=known.face or self._split_heads(self.face_k_proj(tokens.face), self.face_v_proj(tokens.face)),
            expression=known.expression or self._expression_key_value(tokens.expression),
        )

    def fuse_projections(self) -> None:
        """Nothing to fuse: keys and values are projected once for a video and the query stands alone."""

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
    """Conditions given once for the whole batch serve every sample of it."""
    if tensor.shape[0] == batch:
        return tensor
    return tensor.repeat(batch // tensor.shape[0], *[1] * (tensor.ndim - 1))

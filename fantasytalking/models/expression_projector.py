"""Projects implicit expression features to tokens in windows per latent frame (FantasyPortrait, arXiv 2507.12956).

Axes: B batch, P people, N video frames, F latent frames, K tokens per frame (24 as released), s frames per latent
frame, L = s K + 1 tokens in a window, D token width.
"""

from dataclasses import replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.audio_windows import cut_windows, released_token_ranges
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.expression_config import (
    EXPRESSION_FEATURE_PARTS,
    LEARNED_TOKEN_COUNTS,
    ExpressionModuleConfig,
)

LEARNED_TOKEN_ORDER = ("mouth", "emotion", "eye", "head")
"""Order of the learned tokens, which follow the plain ones; the first two are released."""


class ExpressionProjector(nn.Module):
    """Projects each part to one plain token, and the non-rigid parts also to several learned tokens.

    Plain: one linear layer without bias per part (two with `sizes.plain_width`), then a shared LayerNorm. Learned
    (expression-augmented learning): queries that decompose the part by cross-attention. The tokens of a frame are head,
    eye, emotion, mouth, then the learned ones in `LEARNED_TOKEN_ORDER`. Attention does not depend on the order of the
    tokens in a window; with `sizes.positions` a learned vector per position is added, as in `AudioProjector`.
    """

    def __init__(self, sizes: ExpressionModuleConfig) -> None:
        super().__init__()
        self.dims = sizes.dims
        self.temporal_stride = sizes.temporal_stride
        self.tokens_per_frame = len(EXPRESSION_FEATURE_PARTS) + sum(sizes.learned)
        dims, learned = (
            dict(zip(EXPRESSION_FEATURE_PARTS, values, strict=True)) for values in (sizes.dims, sizes.learned)
        )
        self.plain = nn.ModuleDict({part: _plain_projection(dims[part], sizes) for part in EXPRESSION_FEATURE_PARTS})
        self.norm = nn.LayerNorm(sizes.token_dim)
        positions = torch.empty(sizes.window_length, sizes.token_dim)
        self.positions = nn.Parameter(positions) if sizes.positions else None
        self.reset_positions()
        shape = (sizes.token_dim, sizes.width, sizes.depth, sizes.heads, sizes.head_dim)
        self.learned = nn.ModuleDict(
            {part: PartResampler(dims[part], learned[part], *shape) for part in LEARNED_TOKEN_ORDER if learned[part]}
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, P, N, sum of dims) -> (B, P, N, K, D)."""
        parts = dict(zip(EXPRESSION_FEATURE_PARTS, features.split(self.dims, dim=-1), strict=True))
        plain = torch.stack([self.norm(self.plain[part](parts[part])) for part in EXPRESSION_FEATURE_PARTS], dim=-2)
        return torch.cat([plain, *(resampler(parts[part]) for part, resampler in self.learned.items())], dim=-2)

    def window_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """Returns the tokens of every latent frame's window, zero outside the clip and where no face is present.

        With positions, these are added to zeros too.

        Args:
            features: (B, P, N, sum of dims).
            present: (B, P, N) bool.

        Returns:
            (B, F, P L, D).
        """
        # Features of absent faces may contain NaN, which a mask in the softmax does not exclude.
        tokens = self(features.masked_fill(~present[..., None], 0.0))
        tokens = tokens.masked_fill(~present[..., None, None], 0.0)
        windows = _cut_windows(rearrange(tokens, "b p n k d -> b p (n k) d"), present.shape[2], self.temporal_stride)
        return windows if self.positions is None else windows + self.positions.repeat(present.shape[1], 1)

    def window_mask(self, present: Tensor, padding: str) -> Tensor:
        """Returns which window tokens are attended to: (B, P, N) bool -> (B, F, P, L) bool.

        With `padding` "attended", padding counts for every person who is present in at least one frame.
        """
        tokens = repeat(present, "b p n -> b p (n k) one", k=self.tokens_per_frame, one=1)
        real = _cut_windows(tokens.float(), present.shape[2], self.temporal_stride)[..., 0] > 0
        real = rearrange(real, "b f (p l) -> b f p l", p=present.shape[1])
        if padding == "attended":
            real = real | present.any(dim=-1)[:, None, :, None]
        return real

    def reset_parameters(self) -> None:
        """Initializes all weights at random."""
        self.reset_positions()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, PartResampler):
                module.reset_queries()

    def reset_positions(self) -> None:
        """Initializes the positions at random, with half the standard deviation of the tokens."""
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.5)


def match_parameter_count(sizes: ExpressionModuleConfig, augmentation: str) -> ExpressionModuleConfig:
    """Widens the plain projections until the projector has as many parameters as `augmentation` with linear ones.

    The counts agree to half a unit of that width, so that an ablation compares the effect of learned tokens and not
    the number of weights.

    Raises:
        InputError: `sizes` already has as many learned tokens or more.
    """
    lean = replace(sizes, plain_width=0)
    target = projector_parameter_count(replace(lean, learned=LEARNED_TOKEN_COUNTS[augmentation]))
    unit = sum(sizes.dims) + len(EXPRESSION_FEATURE_PARTS) * sizes.token_dim
    narrow = projector_parameter_count(lean) - sum(sizes.dims) * sizes.token_dim
    width = round((target - narrow) / unit)
    if width < 1 or sum(sizes.learned) >= sum(LEARNED_TOKEN_COUNTS[augmentation]):
        raise InputError(
            f"an expression condition with {sum(sizes.learned)} learned tokens cannot be widened to the parameter "
            f"count of '{augmentation}'; choose an augmentation with more learned tokens",
            code=ErrorCode.out_of_range,
            field="augmentation",
            value=augmentation,
        )
    return replace(lean, plain_width=width)


def projector_parameter_count(sizes: ExpressionModuleConfig) -> int:
    """Returns the number of parameters of a projector of these sizes, without building it."""
    return sum(value.numel() for value in _meta_projector(sizes).parameters())


def expression_tensor_shapes(sizes: ExpressionModuleConfig, dim: int, num_blocks: int) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of a transformer's expression tensors, without building it.

    Args:
        sizes: of the expression condition.
        dim: width of the transformer.
        num_blocks: depth of the transformer.
    """
    projector = _meta_projector(sizes).state_dict()
    shapes = {f"expression_projector.{name}": tuple(value.shape) for name, value in projector.items()}
    names = [f"blocks.{block}.attn2.expression_{kind}_proj.weight" for block in range(num_blocks) for kind in "kv"]
    return {**shapes, **dict.fromkeys(names, (dim, sizes.token_dim))}


def _meta_projector(sizes: ExpressionModuleConfig) -> ExpressionProjector:
    with torch.device("meta"):
        return ExpressionProjector(sizes)


class PartResampler(nn.Module):
    """Learned queries that decompose one part of the features: a perceiver with keys of the input and of themselves.

    Args:
        part_dim: width of the part.
        num_tokens: learned queries = tokens.
        token_dim: width of the tokens.
        width, depth, num_heads, head_dim: of the perceiver.
    """

    def __init__(
        self, part_dim: int, num_tokens: int, token_dim: int, width: int, depth: int, num_heads: int, head_dim: int
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, num_tokens, width))
        self.input = nn.Linear(part_dim, width)
        self.layers = nn.ModuleList(_PerceiverLayer(width, num_heads, head_dim) for _ in range(depth))
        self.output = nn.Linear(width, token_dim)
        self.output_norm = nn.LayerNorm(token_dim)
        self.reset_queries()

    def forward(self, part: Tensor) -> Tensor:
        """(..., part_dim) -> (..., num_tokens, token_dim)."""
        inputs = self.input(part.flatten(0, -2))[:, None]  # one token per frame
        tokens = self.queries.expand(inputs.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, inputs)
        return self.output_norm(self.output(tokens)).unflatten(0, part.shape[:-1])

    def reset_queries(self) -> None:
        """Initializes the queries at random."""
        nn.init.normal_(self.queries, std=self.queries.shape[-1] ** -0.5)


class _PerceiverLayer(nn.Module):
    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input_norm = nn.LayerNorm(width)
        self.query_norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, num_heads * head_dim, bias=False)
        self.to_key_value = nn.Linear(width, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, tokens: Tensor, inputs: Tensor) -> Tensor:
        queries = self.query_norm(tokens)
        source = torch.cat([self.input_norm(inputs), queries], dim=1)
        query = rearrange(self.to_query(queries), "b n (h d) -> b h n d", h=self.num_heads)
        key, value = rearrange(self.to_key_value(source), "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.to_out(rearrange(attended, "b h n d -> b n (h d)"))
        return tokens + self.feed_forward(tokens)


def _plain_projection(part_dim: int, sizes: ExpressionModuleConfig) -> nn.Module:
    if not sizes.plain_width:
        return nn.Linear(part_dim, sizes.token_dim, bias=False)
    return nn.Sequential(
        nn.Linear(part_dim, sizes.plain_width, bias=False),
        nn.GELU(),
        nn.Linear(sizes.plain_width, sizes.token_dim, bias=False),
    )


def _cut_windows(tokens: Tensor, num_frames: int, temporal_stride: int) -> Tensor:
    """(B, P, N K, D) -> (B, F, P L, D) by the released rule.

    Latent frame i > 0 takes the tokens of its frames and one more. Latent frame 0 has the tokens of its single
    frame, followed by zeros.
    """
    people = tokens.shape[1]
    ranges = released_token_ranges(tokens.shape[2], num_frames, temporal_stride)
    first = torch.tensor([start for start, _ in ranges])
    cut = cut_windows(tokens.flatten(0, 1), first, ranges[0][1] - ranges[0][0] + 1).tokens  # (B P, F, L, D)
    return rearrange(cut, "(b p) f l d -> b f (p l) d", p=people)

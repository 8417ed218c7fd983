"""Implicit expression features to tokens, cut into a window for every latent frame (FantasyPortrait, arXiv 2507.12956).

Axes: B batch, P people, N video frames, F latent frames, K tokens a frame (24 as released), L = 4 K + 1 tokens in a
window, D token width.
"""

from dataclasses import replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.audio_windows import cut_windows, released_token_ranges
from fantasytalking.common.errors import InputError
from fantasytalking.models.expression_config import (
    EXPRESSION_FEATURE_PARTS,
    LEARNED_TOKEN_COUNTS,
    ExpressionModuleConfig,
)

LEARNED_TOKEN_ORDER = ("mouth", "emotion", "eye", "head")
"""Of the learned tokens behind the plain ones; released are the first two."""


class ExpressionProjector(nn.Module):
    """Every part as one plain token, and the non-rigid parts also as several learned ones.

    Plain: a linear layer without bias each (two with `sizes.plain_width`), then one shared LayerNorm. Learned
    (expression-augmented learning): queries that decompose the part by cross-attention. The tokens of a frame are head,
    eye, emotion, mouth, then the learned ones in `LEARNED_TOKEN_ORDER`. Attention does not see in which order the
    tokens of a window stand; with `sizes.positions` a learned vector for every place tells it, as `AudioProjector` has
    them.
    """

    def __init__(self, sizes: ExpressionModuleConfig) -> None:
        super().__init__()
        self.dims = sizes.dims
        self.tokens_per_frame = len(EXPRESSION_FEATURE_PARTS) + sum(sizes.learned)
        dims, learned = (
            dict(zip(EXPRESSION_FEATURE_PARTS, values, strict=True)) for values in (sizes.dims, sizes.learned)
        )
        self.plain = nn.ModuleDict({part: _plain_projection(dims[part], sizes) for part in EXPRESSION_FEATURE_PARTS})
        self.norm = nn.LayerNorm(sizes.token_dim)
        places = torch.empty(sizes.window_length, sizes.token_dim)
        self.positions = nn.Parameter(places) if sizes.positions else None
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
        """Tokens of every latent frame's window, zeros and their places outside the clip and where no face was present.

        Args:
            features: (B, P, N, sum of dims).
            present: (B, P, N) bool.

        Returns:
            (B, F, P L, D).
        """
        # What stands where nobody is may be anything, even NaN, which no mask of the softmax would keep out.
        tokens = self(features.masked_fill(~present[..., None], 0.0))
        tokens = tokens.masked_fill(~present[..., None, None], 0.0)
        windows = _cut_windows(rearrange(tokens, "b p n k d -> b p (n k) d"), present.shape[2])
        return windows if self.positions is None else windows + self.positions.repeat(present.shape[1], 1)

    def window_mask(self, present: Tensor, padding: str) -> Tensor:
        """Which of the windows' tokens take part: (B, P, N) bool -> (B, F, P, L) bool.

        Padding that is attended is so for people that are there at all.
        """
        tokens = repeat(present, "b p n -> b p (n k) one", k=self.tokens_per_frame, one=1)
        real = _cut_windows(tokens.float(), present.shape[2])[..., 0] > 0
        real = rearrange(real, "b f (p l) -> b f p l", p=present.shape[1])
        if padding == "attended":
            real = real | present.any(dim=-1)[:, None, :, None]
        return real

    def reset_parameters(self) -> None:
        """Fresh random weights."""
        self.reset_positions()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, PartResampler):
                module.reset_queries()

    def reset_positions(self) -> None:
        """Fresh random places, half as large as what they are added to."""
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.5)


def match_parameter_count(sizes: ExpressionModuleConfig, augmentation: str) -> ExpressionModuleConfig:
    """The same with plain projections so wide that there are as many parameters as `augmentation` has with plain ones.

    Equal to half a unit of that width, so that an ablation compares what learned tokens do and not how many weights.

    Raises:
        InputError: there are more parameters already.
    """
    lean = replace(sizes, plain_width=0)
    wanted = projector_parameter_count(replace(lean, learned=LEARNED_TOKEN_COUNTS[augmentation]))
    a_unit = sum(sizes.dims) + len(EXPRESSION_FEATURE_PARTS) * sizes.token_dim
    narrow = projector_parameter_count(lean) - sum(sizes.dims) * sizes.token_dim
    width = round((wanted - narrow) / a_unit)
    if width < 1 or sum(sizes.learned) >= sum(LEARNED_TOKEN_COUNTS[augmentation]):
        raise InputError(
            f"an expression condition of {sum(sizes.learned)} learned tokens cannot be widened to the parameters of "
            f"'{augmentation}'; name an augmentation that has more"
        )
    return replace(lean, plain_width=width)


def projector_parameter_count(sizes: ExpressionModuleConfig) -> int:
    """Parameters of a projector of these sizes; none is made."""
    return sum(value.numel() for value in _meta_projector(sizes).parameters())


def expression_tensor_shapes(sizes: ExpressionModuleConfig, dim: int, num_blocks: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the expression's tensors in a transformer of that width and depth; none is made."""
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
        inputs = self.input(part.flatten(0, -2))[:, None]  # one token a frame
        tokens = self.queries.expand(inputs.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, inputs)
        return self.output_norm(self.output(tokens)).unflatten(0, part.shape[:-1])

    def reset_queries(self) -> None:
        """Fresh random queries."""
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
        asking = self.query_norm(tokens)
        source = torch.cat([self.input_norm(inputs), asking], dim=1)
        query = rearrange(self.to_query(asking), "b n (h d) -> b h n d", h=self.num_heads)
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


def _cut_windows(tokens: Tensor, num_frames: int) -> Tensor:
    """(B, P, N K, D) -> (B, F, P L, D): the released rule, latent frame i > 0 takes its four frames and one token more.

    Latent frame 0 has its one frame's tokens; zeros fill the rest of its window, at the end.
    """
    people = tokens.shape[1]
    ranges = released_token_ranges(tokens.shape[2], num_frames)
    first = torch.tensor([start for start, _ in ranges])
    cut = cut_windows(tokens.flatten(0, 1), first, ranges[0][1] - ranges[0][0] + 1).tokens  # (B P, F, L, D)
    return rearrange(cut, "(b p) f l d -> b f (p l) d", p=people)

"""Implicit expression features to tokens, cut into a window for every latent frame (FantasyPortrait, arXiv 2507.12956).

Axes: B batch, P people, N video frames, F latent frames, K tokens a frame (24 as released), L = 4 K + 1 tokens in a
window, D token width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.audio_windows import cut_windows, official_ranges
from fantasytalking.errors import InputError

PARTS = ("head", "eye", "emotion", "mouth")
"""Of the features, in their order; released widths 6, 6, 30 and 512."""
LEARNED_ORDER = ("mouth", "emotion", "eye", "head")
"""Of the learned tokens behind the plain ones; released are the first two."""
AUGMENTATIONS = {"none": (0, 0, 0, 0), "emotion_and_mouth": (0, 0, 4, 16), "all": (4, 4, 4, 16)}
"""The paper's ablation of expression-augmented learning: learned tokens of each of `PARTS`. It states no counts for
head and eye; theirs are emotion's."""
PADDINGS = ("masked", "attended")
"""Whether zeros that fill a window outside the clip are masked (ours) or take part in the softmax (as released)."""


def check_expression_config(config: Mapping[str, Any], source: str) -> None:
    """Holds the transformer's `expression_*` arguments in their limits.

    Raises:
        InputError: naming `source`, the value and the limit.
    """
    dims, learned = config.get("expression_dims"), config.get("expression_learned")
    if dims is not None and (len(dims) != len(PARTS) or min(dims) < 1):
        raise InputError(f"{source}: expression_dims is {list(dims)}; widths of {', '.join(PARTS)} are needed")
    if learned is not None and (len(learned) != len(PARTS) or min(learned) < 0):
        raise InputError(f"{source}: expression_learned is {list(learned)}; tokens of {', '.join(PARTS)} are needed")
    padding = config.get("expression_padding", PADDINGS[0])
    if padding not in PADDINGS:
        raise InputError(f"{source}: expression_padding is {padding!r}; {' or '.join(PADDINGS)} is needed")


class ExpressionProjector(nn.Module):
    """Every part as one plain token, and the non-rigid parts also as several learned ones.

    Plain: a linear layer without bias each, then one shared LayerNorm. Learned (expression-augmented learning): queries
    that decompose the part by cross-attention. The tokens of a frame are head, eye, emotion, mouth, then the learned
    ones in `LEARNED_ORDER`.

    Args:
        dims: widths of `PARTS`.
        learned: number of learned tokens of each of `PARTS`; 0 = the plain token alone.
        token_dim: D.
        width, depth, num_heads, head_dim: size of the resamplers (released: 1280, 4, 20, 64).
    """

    def __init__(
        self,
        dims: Sequence[int],
        learned: Sequence[int],
        token_dim: int,
        width: int,
        depth: int,
        num_heads: int,
        head_dim: int,
    ) -> None:
        super().__init__()
        assert len(dims) == len(learned) == len(PARTS), f"one number is needed for each of {PARTS}"
        self.dims = tuple(dims)
        self.tokens_per_frame = len(PARTS) + sum(learned)
        self.plain = nn.ModuleDict(
            {part: nn.Linear(dim, token_dim, bias=False) for part, dim in zip(PARTS, dims, strict=True)}
        )
        self.norm = nn.LayerNorm(token_dim)
        sizes = dict(zip(PARTS, zip(dims, learned, strict=True), strict=True))
        self.learned = nn.ModuleDict(
            {
                part: PartResampler(sizes[part][0], sizes[part][1], token_dim, width, depth, num_heads, head_dim)
                for part in LEARNED_ORDER
                if sizes[part][1]
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, P, N, sum of dims) -> (B, P, N, K, D)."""
        parts = dict(zip(PARTS, features.split(self.dims, dim=-1), strict=True))
        plain = torch.stack([self.norm(self.plain[part](parts[part])) for part in PARTS], dim=-2)
        return torch.cat([plain, *(resampler(parts[part]) for part, resampler in self.learned.items())], dim=-2)

    def windows(self, features: Tensor, present: Tensor) -> Tensor:
        """Tokens of every latent frame's window, zeros outside the clip and where no face was present.

        Args:
            features: (B, P, N, sum of dims).
            present: (B, P, N) bool.

        Returns:
            (B, F, P L, D).
        """
        # What stands where nobody is may be anything, even NaN, which no mask of the softmax would keep out.
        tokens = self(features.masked_fill(~present[..., None], 0.0))
        tokens = tokens.masked_fill(~present[..., None, None], 0.0)
        return _cut(rearrange(tokens, "b p n k d -> b p (n k) d"), present.shape[2])

    def window_mask(self, present: Tensor, padding: str) -> Tensor:
        """Which of the windows' tokens take part: (B, P, N) bool -> (B, F, P, L) bool.

        Padding that is attended is so for people that are there at all.
        """
        tokens = repeat(present, "b p n -> b p (n k) one", k=self.tokens_per_frame, one=1)
        real = _cut(tokens.float(), present.shape[2])[..., 0] > 0
        real = rearrange(real, "b f (p l) -> b f p l", p=present.shape[1])
        if padding == "attended":
            real = real | present.any(dim=-1)[:, None, :, None]
        return real

    def reset_parameters(self) -> None:
        """Fresh random weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, PartResampler):
                module.reset_queries()


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


def _cut(tokens: Tensor, num_frames: int) -> Tensor:
    """(B, P, N K, D) -> (B, F, P L, D): the released rule, latent frame i > 0 takes its four frames and one token more.

    Latent frame 0 has its one frame's tokens; zeros fill the rest of its window, at the end.
    """
    people = tokens.shape[1]
    ranges = official_ranges(tokens.shape[2], num_frames)
    first = torch.tensor([start for start, _ in ranges])
    cut = cut_windows(tokens.flatten(0, 1), first, ranges[0][1] - ranges[0][0] + 1).tokens  # (B P, F, L, D)
    return rearrange(cut, "(b p) f l d -> b f (p l) d", p=people)

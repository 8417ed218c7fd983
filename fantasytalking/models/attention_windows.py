"""Assigns condition tokens to video tokens: windows over time, regions over the image.

Axes: B batch, P people, S video tokens of the clip, W windows, n video tokens in a window, L condition tokens in a
window.
"""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


class WindowSpan(NamedTuple):
    """Windows that contain the video tokens of this rank.

    Tokens are ordered by frame. Under context parallelism a rank may begin or end inside a latent frame: the missing
    tokens of its first and last frame are padded for windowed attention and removed afterwards.
    """

    first_window: int
    """Index of the first window."""
    num_windows: int
    """Number of windows."""
    pad_front: int
    """Tokens missing at the start of the first window."""
    pad_back: int
    """Tokens missing at the end of the last window."""

    @classmethod
    def from_tokens(cls, first_token: int, num_tokens: int, tokens_per_window: int) -> "WindowSpan":
        """Returns the span of `num_tokens` video tokens from `first_token` of the clip on."""
        first_window = first_token // tokens_per_window  # torch.compile traces no divmod of symbolic sizes
        pad_front = first_token - first_window * tokens_per_window
        end = first_token + num_tokens
        last_window = -(-end // tokens_per_window)
        return cls(first_window, last_window - first_window, pad_front, last_window * tokens_per_window - end)

    @property
    def window_slice(self) -> slice:
        """Slice of the span's windows among all windows."""
        return slice(self.first_window, self.first_window + self.num_windows)


class LocalTokens(NamedTuple):
    """Range of the video tokens of this rank: all of the clip without context parallelism."""

    start: int
    """Index of the first token."""
    length: int
    """Number of tokens of this rank."""
    total: int
    """Number of tokens of the clip."""

    def window_span(self, num_windows: int) -> WindowSpan:
        """Returns the span of these tokens among `num_windows` windows; a single window is never padded."""
        return (
            WindowSpan(0, 1, 0, 0)
            if num_windows == 1
            else WindowSpan.from_tokens(self.start, self.length, self.total // num_windows)
        )


class WindowedAttention(NamedTuple):
    """Attention of each window's video tokens to the condition tokens of that window."""

    span: WindowSpan
    mask: Tensor
    """(B, W, 1 or n, L) bool, True = attend; 1 if all tokens of a window have the same mask."""


def build_windowed_attention(
    local: LocalTokens, span: WindowSpan, token_mask: Tensor, regions: Tensor | None
) -> WindowedAttention:
    """Builds the attention to a condition's real tokens, limited to each person's region if regions are given.

    Args:
        local, span: range and windows of this rank's video tokens.
        token_mask: (B, W, L) bool of the span's windows, True = real token; with regions L is P equal blocks.
        regions: (B, P, F, H/2, W/2) bool of the whole clip, or None.
    """
    if regions is None:
        return WindowedAttention(span, token_mask[:, :, None])
    tokens = regions.flatten(2)[:, :, local.start : local.start + local.length]  # (B, P, S of this rank)
    tokens = F.pad(tokens, (span.pad_front, span.pad_back))
    allowed = rearrange(tokens, "b p (w n) -> b w n p", w=span.num_windows)
    block = token_mask.shape[2] // regions.shape[1]
    return WindowedAttention(span, allowed.repeat_interleave(block, dim=-1) & token_mask[:, :, None])

"""Which video tokens attend to which of a condition's tokens: windows over time, regions over the picture.

Axes: B batch, P people, S video tokens of the clip, W windows, n video tokens in a window, L condition tokens in a
window.
"""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


class WindowSpan(NamedTuple):
    """Which windows the video tokens at hand belong to.

    Tokens run frame by frame. Under context parallelism a rank may begin or end inside a latent frame: the missing
    tokens of its first and last frame are padded for the windowed attention and cut off again.
    """

    first_window: int
    num_windows: int
    pad_front: int
    pad_back: int

    @classmethod
    def from_tokens(cls, first_token: int, num_tokens: int, tokens_per_window: int) -> "WindowSpan":
        """The span of `num_tokens` video tokens that begin at `first_token` of the clip."""
        first_window, pad_front = divmod(first_token, tokens_per_window)
        end = first_token + num_tokens
        last_window = -(-end // tokens_per_window)
        return cls(first_window, last_window - first_window, pad_front, last_window * tokens_per_window - end)

    @property
    def window_slice(self) -> slice:
        """Of all windows, those of the span."""
        return slice(self.first_window, self.first_window + self.num_windows)


class LocalTokens(NamedTuple):
    """The video tokens at hand: all of the clip, or a rank's part."""

    start: int
    length: int
    total: int
    """Tokens of the clip."""

    def window_span(self, num_windows: int) -> WindowSpan:
        """The span of these tokens when the clip is cut into `num_windows` windows; a single one is never padded."""
        return (
            WindowSpan(0, 1, 0, 0)
            if num_windows == 1
            else WindowSpan.from_tokens(self.start, self.length, self.total // num_windows)
        )


class WindowedAttention(NamedTuple):
    """How the video tokens of a window attend to a condition's tokens of that window."""

    span: WindowSpan
    mask: Tensor
    """(B, W, 1 or n, L) bool, True = attend; 1 where all tokens of a window attend alike."""


def build_windowed_attention(
    local: LocalTokens, span: WindowSpan, token_mask: Tensor, regions: Tensor | None
) -> WindowedAttention:
    """The attention to a condition's real tokens, kept to each person's region where there are regions.

    Args:
        own, span: of the video tokens at hand.
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

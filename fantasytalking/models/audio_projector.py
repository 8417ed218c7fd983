"""Projects the features of the audio encoder to audio tokens."""

import torch
from torch import Tensor, nn


class AudioProjector(nn.Module):
    """Linear layer without bias, then LayerNorm: 768 -> 2048 in the released weights (`proj_model`).

    Attention does not depend on the order of the tokens in a window, and the released model has no positions: to which
    of a latent frame's four frames a token belongs must be inferred from the features. With `num_positions`, every
    position of a frame-level window has a learned vector that is added to its token.

    Args:
        feature_dim, token_dim: widths of a feature and of a token.
        num_positions: tokens in a frame-level window; 0 = no positions, as released.
    """

    def __init__(self, feature_dim: int, token_dim: int, num_positions: int = 0) -> None:
        super().__init__()
        self.proj = nn.Linear(feature_dim, token_dim, bias=False)
        self.norm = nn.LayerNorm(token_dim)
        self.positions = nn.Parameter(torch.empty(num_positions, token_dim)) if num_positions else None
        self.reset_positions()

    def forward(self, features: Tensor, *, frame_level: bool) -> Tensor:
        """(B, W, L, feature_dim) -> (B, W, L, token_dim).

        Args:
            frame_level: whether each window belongs to a latent frame; then L is `num_positions` times the number of
                speakers. The window of a whole clip has no positions.
        """
        tokens = self.norm(self.proj(features))
        if self.positions is None or not frame_level:
            return tokens
        return tokens + self.positions.repeat(tokens.shape[-2] // len(self.positions), 1)

    def reset_parameters(self) -> None:
        """Initializes all weights at random."""
        self.proj.reset_parameters()
        self.norm.reset_parameters()
        self.reset_positions()

    def reset_positions(self) -> None:
        """Initializes the positions at random, with half the standard deviation of the tokens."""
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.5)

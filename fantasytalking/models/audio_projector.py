"""wav2vec2 features to audio tokens."""

import torch
from torch import Tensor, nn


class AudioProjector(nn.Module):
    """Linear without bias, then LayerNorm: 768 -> 2048 in the released weights (`proj_model`).

    Attention does not see in which order the tokens of a window stand, and the released model does not tell it: which
    of a latent frame's four pictures a token belongs to must be guessed from what the features know of their
    neighbours. With `positions` every place in a frame-level window has a learned vector, which is added to its token.

    Args:
        feature_dim, token_dim: widths of a feature and of a token.
        positions: tokens in a frame-level window; 0 = as released.
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
            frame_level: whether the windows are latent frames'; then L is `positions` times the number of speakers. The
                window of a whole clip has no places.
        """
        tokens = self.norm(self.proj(features))
        if self.positions is None or not frame_level:
            return tokens
        return tokens + self.positions.repeat(tokens.shape[-2] // len(self.positions), 1)

    def reset_parameters(self) -> None:
        """Fresh random weights."""
        self.proj.reset_parameters()
        self.norm.reset_parameters()
        self.reset_positions()

    def reset_positions(self) -> None:
        """Fresh random places, half as large as what they are added to."""
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.5)

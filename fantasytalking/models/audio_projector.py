"""wav2vec2 features to audio tokens."""

from torch import Tensor, nn


class AudioProjector(nn.Module):
    """Linear without bias, then LayerNorm: 768 -> 2048 in the released weights (`proj_model`)."""

    def __init__(self, feature_dim: int, token_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(feature_dim, token_dim, bias=False)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(..., feature_dim) -> (..., token_dim)."""
        return self.norm(self.proj(features))

    def reset_parameters(self) -> None:
        """Fresh random weights."""
        self.proj.reset_parameters()
        self.norm.reset_parameters()

"""Embeds motion intensities as a vector that is added to the timestep embedding (paper section 3.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScalarLinear(nn.Module):
    """nn.Linear(1, out_features) that quantization does not find: with one input, it has a scale for every weight.

    Args:
        out_features: width of the output.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        linear = nn.Linear(1, out_features)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, scalar: Tensor) -> Tensor:
        """(B, 1) -> (B, out_features)."""
        # Layerwise casting changes the dtype of nn.Linear alone.
        return F.linear(scalar, self.weight.to(scalar.dtype), self.bias.to(scalar.dtype))

    def reset_parameters(self) -> None:
        """Initializes the weights at random, as in nn.Linear."""
        nn.Linear.reset_parameters(self)  # type: ignore[arg-type]


class MotionEmbedder(nn.Module):
    """MLP per intensity -> concatenation -> ResNet layer -> average pooling, as in the paper.

    The two embeddings are two positions of a sequence, over which the ResNet layer convolves and the pooling averages.
    The last projection starts at zero, so that a new embedder adds nothing.

    Args:
        width: inner width.
        out_dim: width of the timestep embedding.
    """

    def __init__(self, width: int, out_dim: int) -> None:
        super().__init__()
        self.expression = _mlp(width)
        self.body = _mlp(width)
        self.residual = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv1d(width, width, kernel_size=3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv1d(width, width, kernel_size=3, padding=1),
        )
        self.output = nn.Linear(width, out_dim)
        self.reset_parameters()

    def forward(self, motion: Tensor) -> Tensor:
        """(B, 2) expression and body intensity in [0, 1] -> (B, out_dim)."""
        centered = 2 * motion - 1  # the neutral 0.5 / 0.5 becomes 0
        joined = torch.stack([self.expression(centered[:, :1]), self.body(centered[:, 1:])], dim=-1)  # (B, width, 2)
        pooled = (joined + self.residual(joined)).mean(dim=-1)  # (B, width)
        return self.output(pooled)

    def reset_parameters(self) -> None:
        """Initializes the weights at random; the output is exactly zero."""
        for module in self.modules():
            if isinstance(module, ScalarLinear | nn.Linear | nn.Conv1d | nn.GroupNorm):
                module.reset_parameters()
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(ScalarLinear(width), nn.SiLU(), nn.Linear(width, width))

"""Resamples ArcFace embeddings to face tokens with a Q-Former (paper section 3.3)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class FaceResampler(nn.Module):
    """Learned queries with self-attention and with cross-attention to ArcFace embeddings.

    The paper names ArcFace and a Q-Former and leaves the size open. An embedding is a single vector, over which a
    softmax is constant, so each is first unfolded into `inputs_per_face` tokens. Several crops of the same person may
    be given; their order does not matter.

    Args:
        face_dim: width of an ArcFace embedding, 512.
        token_dim: width of the face tokens that the blocks read.
        num_tokens: learned queries = face tokens.
        width, depth, num_heads: size of the Q-Former.
    """

    inputs_per_face = 4

    def __init__(self, face_dim: int, token_dim: int, num_tokens: int, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, num_tokens, width))
        self.unfold = nn.Linear(face_dim, self.inputs_per_face * width)
        self.input_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_QFormerLayer(width, num_heads) for _ in range(depth))
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, token_dim)
        self.reset_parameters()

    def forward(self, face: Tensor) -> Tensor:
        """(B, N, face_dim) embeddings of any norm -> (B, num_tokens, token_dim).

        The norm of an ArcFace embedding reflects image quality and not identity, so it is divided out.
        """
        face = F.normalize(face, dim=-1) * face.shape[-1] ** 0.5
        inputs = rearrange(self.unfold(face), "b n (t c) -> b (n t) c", t=self.inputs_per_face)
        inputs = self.input_norm(inputs)
        tokens = self.queries.expand(face.shape[0], -1, -1)  # (B, num_tokens, width)
        for layer in self.layers:
            tokens = layer(tokens, inputs)
        return self.output(self.output_norm(tokens))

    def reset_parameters(self) -> None:
        """Initializes all weights at random."""
        nn.init.normal_(self.queries, std=self.queries.shape[-1] ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()


class _QFormerLayer(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = _Attention(width, num_heads)
        self.cross_attention = _Attention(width, num_heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, inputs: Tensor) -> Tensor:
        tokens = tokens + self.self_attention(tokens, None)
        tokens = tokens + self.cross_attention(tokens, inputs)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, inputs: Tensor | None) -> Tensor:
        tokens = self.norm(tokens)
        source = tokens if inputs is None else inputs
        query = rearrange(self.to_query(tokens), "b n (h d) -> b h n d", h=self.num_heads)
        key, value = rearrange(self.to_key_value(source), "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(rearrange(attended, "b h n d -> b n (h d)"))

"""Vision transformer with the names and conventions of DINO (Dosovitskiy et al. 2021; Caron et al. 2021)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = rearrange(self.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(rearrange(attended, "b h n d -> b n (h d)"))
        return result


class _MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return result


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = _Attention(dim, heads), _MLP(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)


class VisionTransformer(nn.Module):
    """Maps (B, 3, H, W) normalized images to (B, dim), the class token after the last norm.

    For other sizes than `size` x `size`, the position embeddings are interpolated (bicubic), as in DINO's code. Pixels
    beyond whole patches are ignored.
    """

    def __init__(self, dim: int = 768, depth: int = 12, heads: int = 12, patch: int = 16, size: int = 224) -> None:
        super().__init__()
        self.side = size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, dim))
        self.patch_embed = _PatchEmbed(dim, patch)
        self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    @classmethod
    def from_file(cls, path: Path) -> "VisionTransformer":
        """Loads DINO's ViT-B/16 backbone.

        Raises:
            InputError: the tensors do not match this network.
        """
        return load_strict(cls(), path)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed.proj(images)
        tokens = rearrange(patches, "b d h w -> b (h w) d") + self._positions(*patches.shape[2:])
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        result: Tensor = self.norm(self.blocks(torch.cat([first, tokens], dim=1)))[:, 0]
        return result

    def _positions(self, rows: int, columns: int) -> Tensor:
        known = self.pos_embed[:, 1:]
        if (rows, columns) == (self.side, self.side):
            return known
        square = rearrange(known, "1 (h w) d -> 1 d h w", h=self.side)
        # The 0.1 avoids rounding the size down, as in DINO.
        scale = ((rows + 0.1) / self.side, (columns + 0.1) / self.side)
        return rearrange(F.interpolate(square, scale_factor=scale, mode="bicubic"), "1 d h w -> 1 (h w) d")

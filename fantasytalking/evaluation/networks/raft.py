"""RAFT (Teed and Deng 2020): optical flow by iterative lookups in all correlations of two images.

The large network with the names of its authors' weights (github.com/princeton-vl/RAFT, raft-things.pth).
B batch, C channels, h and w height and width of an eighth of the image, L levels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict

RAFT_STRIDE = 8
HIDDEN_CHANNELS, CONTEXT_CHANNELS = 128, 128
PYRAMID_LEVELS, LOOKUP_RADIUS = 4, 4
RAFT_ITERATIONS = 20
"""Number of iterations, as in its authors' demonstration."""


def _norm(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.InstanceNorm2d(channels)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm1, self.norm2 = _norm(norm, out_channels), _norm(norm, out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            # One norm under two names, as in the file.
            self.norm3 = _norm(norm, out_channels)
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), self.norm3)

    def forward(self, image: Tensor) -> Tensor:
        result = F.relu(self.norm1(self.conv1(image)))
        result = F.relu(self.norm2(self.conv2(result)))
        return F.relu(self.downsample(image) + result)


class _Encoder(nn.Module):
    """Maps (B, 3, 8h, 8w) to (B, out_channels, h, w)."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        self.norm1 = _norm(norm, 64)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.layer1 = nn.Sequential(_ResidualBlock(64, 64, norm, 1), _ResidualBlock(64, 64, norm, 1))
        self.layer2 = nn.Sequential(_ResidualBlock(64, 96, norm, 2), _ResidualBlock(96, 96, norm, 1))
        self.layer3 = nn.Sequential(_ResidualBlock(96, 128, norm, 2), _ResidualBlock(128, 128, norm, 1))
        self.conv2 = nn.Conv2d(128, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(image)))
        result: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(hidden))))
        return result


class _MotionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(PYRAMID_LEVELS * (2 * LOOKUP_RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, 128 - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        correlation_features = F.relu(self.convc2(F.relu(self.convc1(correlations))))
        flow_features = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([correlation_features, flow_features], dim=1))), flow], dim=1)


class _SeparableGRU(nn.Module):
    """A gated recurrent unit along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        for number, kernel in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                padding = (kernel[0] // 2, kernel[1] // 2)
                layer = nn.Conv2d(HIDDEN_CHANNELS + CONTEXT_CHANNELS + 128, HIDDEN_CHANNELS, kernel, padding=padding)
                self.add_module(f"conv{gate}{number}", layer)

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        for number in (1, 2):
            update, reset, new = (self.get_submodule(f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([hidden, inputs], dim=1)
            update_gate = torch.sigmoid(update(both))
            candidate = torch.tanh(new(torch.cat([torch.sigmoid(reset(both)) * hidden, inputs], dim=1)))
            hidden = (1 - update_gate) * hidden + update_gate * candidate
        return hidden


class _FlowHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN_CHANNELS, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.conv2(F.relu(self.conv1(hidden)))
        return result


class _UpdateBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = _MotionEncoder(), _SeparableGRU(), _FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN_CHANNELS, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, RAFT_STRIDE**2 * 9, 1)
        )


class RAFT(nn.Module):
    """Maps two (B, 3, H, W) RGB images in [0, 255] to the (B, 2, H, W) flow in pixels (x, y) from first to second.

    H and W are multiples of 8 and at least 128.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fnet = _Encoder(256, "instance")
        self.cnet = _Encoder(HIDDEN_CHANNELS + CONTEXT_CHANNELS, "batch")
        self.update_block = _UpdateBlock()

    @classmethod
    def from_file(cls, path: Path) -> "RAFT":
        """Loads the authors' weights, which were saved with `DataParallel` prefixes.

        Raises:
            InputError: the tensors do not match this network.
        """
        return load_strict(cls(), path, require_counters=False, prefix="module.")

    def forward(self, first: Tensor, second: Tensor, iterations: int = RAFT_ITERATIONS) -> Tensor:
        # 1. features of both images, and the correlations of all positions
        first, second = 2 * first / 255 - 1, 2 * second / 255 - 1
        features = self.fnet(torch.cat([first, second])).chunk(2)
        pyramid = correlation_pyramid(*features)
        hidden, context = self.cnet(first).split([HIDDEN_CHANNELS, CONTEXT_CHANNELS], dim=1)
        hidden, context = torch.tanh(hidden), F.relu(context)
        # 2. iterative updates of the flow
        flow = torch.zeros_like(hidden[:, :2])
        for _ in range(iterations):
            motion = self.update_block.encoder(flow, lookup_correlations(pyramid, flow))
            hidden = self.update_block.gru(hidden, torch.cat([context, motion], dim=1))
            flow = flow + self.update_block.flow_head(hidden)
        # 3. upsampling to the size of the images
        return convex_upsample(flow, 0.25 * self.update_block.mask(hidden))


def correlation_pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Returns four levels (B h w, 1, h', w') of correlations between two (B, C, h, w) features, each coarser."""
    height, width = first.shape[2:]
    products = torch.einsum("bcn,bcm->bnm", first.flatten(2), second.flatten(2)) / first.shape[1] ** 0.5
    levels = [rearrange(products, "b n (h w) -> (b n) 1 h w", h=height, w=width)]
    for _ in range(PYRAMID_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def lookup_correlations(pyramid: list[Tensor], flow: Tensor) -> Tensor:
    """Returns (B, L 81, h, w) correlations around the targets of a (B, 2, h, w) flow; x varies slowest."""
    batch, _, height, width = flow.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    targets = rearrange(flow + torch.stack([x, y]).to(flow), "b xy h w -> (b h w) 1 1 xy")
    offsets = torch.arange(-LOOKUP_RADIUS, LOOKUP_RADIUS + 1).to(flow)
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    found = []
    for level, correlations in enumerate(pyramid):
        size = correlations.new_tensor([correlations.shape[3] - 1, correlations.shape[2] - 1])
        grid = 2 * (targets / 2**level + window) / size - 1
        found.append(F.grid_sample(correlations, grid, align_corners=True).flatten(1))
    return rearrange(torch.cat(found, dim=1), "(b h w) k -> b k h w", b=batch, h=height)


def convex_upsample(flow: Tensor, weights: Tensor) -> Tensor:
    """Upsamples (B, 2, h, w) to (B, 2, 8h, 8w): each fine position is a convex combination of nine coarse neighbors."""
    mixture = rearrange(weights, "b (k i j) h w -> b 1 k i j h w", k=9, i=RAFT_STRIDE).softmax(dim=2)
    neighbors = F.unfold(RAFT_STRIDE * flow, 3, padding=1)
    neighbors = rearrange(neighbors, "b (xy k) (h w) -> b xy k 1 1 h w", k=9, h=flow.shape[2])
    return rearrange((mixture * neighbors).sum(dim=2), "b xy i j h w -> b xy (h i) (w j)")

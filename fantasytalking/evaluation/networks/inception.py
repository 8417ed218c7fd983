"""Inception v3 for FID: the TensorFlow network of 2015, up to its last pooling ("pool3", 2048 features).

Architecture of Szegedy et al. 2015, with the names and the three deviations of github.com/mseitzer/pytorch-fid: average
pooling excludes the zeros of the border, the last block uses maximum pooling, and the classifier has 1008 classes.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict

INCEPTION_DIM = 2048
INCEPTION_SIZE = 299

KernelSize = int | tuple[int, int]
ConvShape = tuple[int, int, KernelSize] | tuple[int, int, KernelSize, int]
"""Input channels, output channels, kernel, and the stride if it is not 1."""


class _Convolution(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, kernel: KernelSize, stride: int = 1, *, valid: bool = False
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(image)))


class _Mixed(nn.Module):
    """Parallel chains of layers over the same input with concatenated channels; chains may share their first layers."""

    def __init__(self, parts: dict[str, ConvShape], chains: list[list[str]]) -> None:
        super().__init__()
        for name, shape in parts.items():
            self.add_module(name, _Convolution(*shape))
        self._chains = [tuple(chain) for chain in chains]

    def forward(self, image: Tensor) -> Tensor:
        done: dict[tuple[str, ...], Tensor] = {(): image}
        for chain in self._chains:
            for length in range(1, len(chain) + 1):
                if chain[:length] not in done:
                    done[chain[:length]] = self._apply_operation(chain[length - 1], done[chain[: length - 1]])
        return torch.cat([done[chain] for chain in self._chains], dim=1)

    def _apply_operation(self, name: str, image: Tensor) -> Tensor:
        if name == "average":
            return F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        if name == "maximum":
            return F.max_pool2d(image, 3, 1, 1)
        if name == "halve":
            return F.max_pool2d(image, 3, 2)
        result: Tensor = self.get_submodule(name)(image)
        return result


def _inception_a(in_channels: int, pool_channels: int) -> _Mixed:
    parts: dict[str, ConvShape] = {
        "branch1x1": (in_channels, 64, 1),
        "branch5x5_1": (in_channels, 48, 1),
        "branch5x5_2": (48, 64, 5),
        "branch3x3dbl_1": (in_channels, 64, 1),
        "branch3x3dbl_2": (64, 96, 3),
        "branch3x3dbl_3": (96, 96, 3),
        "branch_pool": (in_channels, pool_channels, 1),
    }
    double = ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
    return _Mixed(parts, [["branch1x1"], ["branch5x5_1", "branch5x5_2"], double, ["average", "branch_pool"]])


def _inception_b(in_channels: int) -> _Mixed:
    parts: dict[str, ConvShape] = {
        "branch3x3": (in_channels, 384, 3, 2),
        "branch3x3dbl_1": (in_channels, 64, 1),
        "branch3x3dbl_2": (64, 96, 3),
        "branch3x3dbl_3": (96, 96, 3, 2),
    }
    return _Mixed(parts, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["halve"]])


def _inception_c(in_channels: int, width: int) -> _Mixed:
    parts: dict[str, ConvShape] = {
        "branch1x1": (in_channels, 192, 1),
        "branch7x7_1": (in_channels, width, 1),
        "branch7x7_2": (width, width, (1, 7)),
        "branch7x7_3": (width, 192, (7, 1)),
        "branch7x7dbl_1": (in_channels, width, 1),
        "branch7x7dbl_2": (width, width, (7, 1)),
        "branch7x7dbl_3": (width, width, (1, 7)),
        "branch7x7dbl_4": (width, width, (7, 1)),
        "branch7x7dbl_5": (width, 192, (1, 7)),
        "branch_pool": (in_channels, 192, 1),
    }
    single = [f"branch7x7_{number}" for number in range(1, 4)]
    double = [f"branch7x7dbl_{number}" for number in range(1, 6)]
    return _Mixed(parts, [["branch1x1"], single, double, ["average", "branch_pool"]])


def _inception_d(in_channels: int) -> _Mixed:
    parts: dict[str, ConvShape] = {
        "branch3x3_1": (in_channels, 192, 1),
        "branch3x3_2": (192, 320, 3, 2),
        "branch7x7x3_1": (in_channels, 192, 1),
        "branch7x7x3_2": (192, 192, (1, 7)),
        "branch7x7x3_3": (192, 192, (7, 1)),
        "branch7x7x3_4": (192, 192, 3, 2),
    }
    long = [f"branch7x7x3_{number}" for number in range(1, 5)]
    return _Mixed(parts, [["branch3x3_1", "branch3x3_2"], long, ["halve"]])


def _inception_e(in_channels: int, pooling: str) -> _Mixed:
    parts: dict[str, ConvShape] = {
        "branch1x1": (in_channels, 320, 1),
        "branch3x3_1": (in_channels, 384, 1),
        "branch3x3_2a": (384, 384, (1, 3)),
        "branch3x3_2b": (384, 384, (3, 1)),
        "branch3x3dbl_1": (in_channels, 448, 1),
        "branch3x3dbl_2": (448, 384, 3),
        "branch3x3dbl_3a": (384, 384, (1, 3)),
        "branch3x3dbl_3b": (384, 384, (3, 1)),
        "branch_pool": (in_channels, 192, 1),
    }
    double = ["branch3x3dbl_1", "branch3x3dbl_2"]
    chains = [["branch1x1"]]
    chains += [["branch3x3_1", f"branch3x3_2{end}"] for end in "ab"]
    chains += [[*double, f"branch3x3dbl_3{end}"] for end in "ab"]
    return _Mixed(parts, [*chains, [pooling, "branch_pool"]])


class Inception(nn.Module):
    """Maps (N, 3, H, W) RGB images in [0, 1] to (N, 2048) features."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": _Convolution(3, 32, 3, 2),
            "Conv2d_2a_3x3": _Convolution(32, 32, 3, valid=True),
            "Conv2d_2b_3x3": _Convolution(32, 64, 3),
            "halve_1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": _Convolution(64, 80, 1),
            "Conv2d_4a_3x3": _Convolution(80, 192, 3, valid=True),
            "halve_2": nn.MaxPool2d(3, 2),
            "Mixed_5b": _inception_a(192, 32),
            "Mixed_5c": _inception_a(256, 64),
            "Mixed_5d": _inception_a(288, 64),
            "Mixed_6a": _inception_b(288),
            "Mixed_6b": _inception_c(768, 128),
            "Mixed_6c": _inception_c(768, 160),
            "Mixed_6d": _inception_c(768, 160),
            "Mixed_6e": _inception_c(768, 192),
            "Mixed_7a": _inception_d(768),
            "Mixed_7b": _inception_e(1280, "average"),
            "Mixed_7c": _inception_e(2048, "maximum"),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._order = list(layers)
        # The classifier is part of the file, but not used by FID.
        self.fc = nn.Linear(INCEPTION_DIM, 1008)

    @classmethod
    def from_file(cls, path: Path) -> "Inception":
        """Loads the weights distributed by pytorch-fid.

        Raises:
            InputError: the tensors do not match this network.
        """
        return load_strict(cls(), path, require_counters=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = (
            2 * F.interpolate(images, size=(INCEPTION_SIZE, INCEPTION_SIZE), mode="bilinear", align_corners=False) - 1
        )
        for name in self._order:
            hidden = self.get_submodule(name)(hidden)
        return hidden.mean(dim=(2, 3))

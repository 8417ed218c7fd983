"""Provides the released expression encoder: PD-FGC's motion network (Wang et al., CVPR 2023) of FantasyPortrait.

Layers, their names in the file and the crop are those of the published inference code of PD-FGC and FantasyPortrait. A
face alignment network (Bulat and Tzimiropoulos, ICCV 2017) with one hourglass processes the crop, and four heads use
its 68 heatmaps. The features are the outputs of the heads; that of the mouth is taken before its last projection.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors
from fantasytalking.common.torch_file import read_pickle
from fantasytalking.encoders.face_alignment import crop_aligned_bicubic, estimate_similarity

PD_FGC_SIZE = 224
PD_FGC_DIMS = (6, 6, 30, 512)
"""Number of features of head, eye, emotion and mouth."""
# Left eye, right eye, tip of the nose, corners of the mouth in a crop of side 1; OpenCV's coordinates are relative to
# the center of the first pixel.
_CROP_TEMPLATE = (
    np.array([[0.3843, 0.27], [0.62, 0.2668], [0.503, 0.4185], [0.406, 0.5273], [0.5977, 0.525]]) + 0.5 / PD_FGC_SIZE
)
_CHANNELS, _NUM_HEATMAPS, _FEATURE_DIM, _DEPTH = 256, 68, 512, 4
PORT_PREFIX = "pd_fpg."
"""Beginning of the encoder's names in a port of the whole FantasyPortrait in one file."""
_IGNORED_KEYS = ("mouth_embed.", "num_batches_tracked")
"""Parts of keys in the file that the features do not depend on."""


class PdFgcNetwork(nn.Module):
    """Computes features of crops. The names of the modules are those of the released file."""

    dims = PD_FGC_DIMS

    def __init__(self) -> None:
        super().__init__()
        self.model = _AlignmentNetwork()
        for part in ("headpose", "eye", "emo", "mouth"):
            layers = [
                nn.Linear(_FEATURE_DIM, _FEATURE_DIM),
                nn.ReLU(),
                nn.BatchNorm1d(_FEATURE_DIM),
                nn.Linear(_FEATURE_DIM, _FEATURE_DIM),
            ]
            self.add_module(f"to_{part}", nn.Sequential(*layers))
        for part, dim in zip(("headpose", "eye", "emo"), PD_FGC_DIMS[:3], strict=True):
            self.add_module(f"{part}_embed", nn.Sequential(nn.ReLU(), nn.Linear(_FEATURE_DIM, dim)))

    def forward(self, crops: Tensor) -> Tensor:
        """Maps crops (B, 3, 224, 224) RGB in [-1, 1] to (B, 554)."""
        shared = self.model(crops)
        embeddings = [
            self.get_submodule(f"{part}_embed")(self.get_submodule(f"to_{part}")(shared))
            for part in ("headpose", "eye", "emo")
        ]
        return torch.cat([*embeddings, self.get_submodule("to_mouth")(shared)], dim=1)

    def encode_faces(
        self,
        frames: NDArray[np.uint8],
        points: NDArray[np.floating],
        reference_points: NDArray[np.floating],
        device: torch.device,
    ) -> Tensor:
        """Returns features (T, 554) of faces at (T, 5, 2) points; this network does not use `reference_points`."""
        crops = crop_aligned_bicubic(frames, estimate_similarity(points, _CROP_TEMPLATE), PD_FGC_SIZE)
        features: Tensor = self(crops.to(device))
        return features


class _AlignmentNetwork(nn.Module):
    """Maps (B, 3, 224, 224) to (B, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = _Block(64, 128)
        self.conv3 = _Block(128, 128)
        self.conv4 = _Block(128, _CHANNELS)
        self.m0 = _Hourglass()
        self.top_m_0 = _Block(_CHANNELS, _CHANNELS)
        self.conv_last0 = nn.Conv2d(_CHANNELS, _CHANNELS, 1)
        self.bn_end0 = nn.BatchNorm2d(_CHANNELS)
        self.l0 = nn.Conv2d(_CHANNELS, _NUM_HEATMAPS, 1)
        self.bn5 = nn.BatchNorm2d(_NUM_HEATMAPS)
        self.conv6 = nn.Conv2d(_NUM_HEATMAPS, 1, 3, 2, 1)
        self.fc = nn.Linear((PD_FGC_SIZE // 8) ** 2, _FEATURE_DIM)

    def forward(self, crops: Tensor) -> Tensor:
        shallow = F.max_pool2d(self.conv2(F.relu(self.bn1(self.conv1(crops)))), 2)
        deep = self.top_m_0(self.m0(self.conv4(self.conv3(shallow))))
        maps = self.l0(F.relu(self.bn_end0(self.conv_last0(deep))))
        joined = self.conv6(F.relu(self.bn5(maps))).flatten(1)
        features: Tensor = self.fc(F.relu(joined))
        return features


class _Hourglass(nn.Module):
    """Downsamples four times and upsamples again, with a skip connection per level; the size does not change."""

    def __init__(self) -> None:
        super().__init__()
        for level in range(_DEPTH, 0, -1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", _Block(_CHANNELS, _CHANNELS))
        self.b2_plus_1 = _Block(_CHANNELS, _CHANNELS)

    def forward(self, image: Tensor, level: int = _DEPTH) -> Tensor:
        skip = self.get_submodule(f"b1_{level}")(image)
        low = self.get_submodule(f"b2_{level}")(F.max_pool2d(image, 2))
        low = self.b2_plus_1(low) if level == 1 else self(low, level - 1)
        low = self.get_submodule(f"b3_{level}")(low)
        upsampled = F.interpolate(low, size=image.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = skip + upsampled
        return result


class _Block(nn.Module):
    """Three successive convolutions, concatenated and added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = (in_channels, out_channels // 2, out_channels // 4, out_channels // 4)
        for number in (1, 2, 3):
            self.add_module(f"bn{number}", nn.BatchNorm2d(widths[number - 1]))
            self.add_module(f"conv{number}", nn.Conv2d(widths[number - 1], widths[number], 3, 1, 1, bias=False))
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )

    def forward(self, image: Tensor) -> Tensor:
        outputs, value = [], image
        for number in (1, 2, 3):
            value = self.get_submodule(f"conv{number}")(F.relu(self.get_submodule(f"bn{number}")(value)))
            outputs.append(value)
        shortcut = self.downsample(image) if hasattr(self, "downsample") else image
        result: Tensor = torch.cat(outputs, dim=1) + shortcut
        return result


def contains_pd_fgc(path: Path) -> bool:
    """Whether a file is a port of FantasyPortrait with the encoder in it.

    Raises:
        InputError: a safetensors file is damaged.
    """
    return path.suffix == ".safetensors" and any(name.startswith(PORT_PREFIX) for name in open_safetensors(path).shapes)


def read_pd_fgc_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the encoder's tensors of a safetensors file, which may be a port of the whole FantasyPortrait.

    Raises:
        InputError: the file is missing or damaged.
    """
    stored = open_safetensors(path)
    prefix = PORT_PREFIX if any(name.startswith(PORT_PREFIX) for name in stored.shapes) else ""
    return {name.removeprefix(prefix): stored.read(name) for name in stored.shapes if name.startswith(prefix)}


def load_pd_fgc(path: Path) -> PdFgcNetwork:
    """Loads the network of the released file (pd_fpg.pth), or of the same tensors as .safetensors, also in a port of
    the whole FantasyPortrait.

    Raises:
        InputError: the file is missing or damaged, contains other objects than tensors, or other tensors than the
            network's.
    """
    if path.suffix == ".safetensors":
        found = read_pd_fgc_tensors(path)
    else:
        loaded = read_pickle(path)
        found = loaded if isinstance(loaded, dict) else {}
    tensors = {
        str(name): value
        for name, value in found.items()
        if isinstance(value, Tensor) and not any(part in str(name) for part in _IGNORED_KEYS)
    }
    network = PdFgcNetwork()
    state = network.state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items() if "num_batches_tracked" not in name}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    check_shapes(shapes, wanted, f"expression encoder '{path}'", "give the released pd_fpg.pth")
    check_finite(tensors, str(path))
    counters = {name: value for name, value in state.items() if name not in wanted}
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()} | counters)
    return network

"""LPIPS (Zhang et al. 2018), version 0.1 with AlexNet. Meaningful for self-reenactment alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.networks.alexnet import CHANNELS, AlexNetFeatures
from fantasytalking.evaluation.networks.loading import device_of, load_strictly, located
from fantasytalking.evaluation.weights import LPIPS_BACKBONE, LPIPS_HEAD

LEAST_SIDE = 64
CHUNK = 8
# The original's shift and scale of pictures in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class _Line(nn.Module):
    """Weights of one activation's channels; the name of the inner list is that of the released file."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))


class Lines(nn.Module):
    """The weights of all five activations: lin0 to lin4."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(CHANNELS):
            self.add_module(f"lin{number}", _Line(channels))

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """Five times (B, C, h, w) squared differences to (B,)."""
        layers = (self.get_submodule(f"lin{number}.model") for number in range(len(CHANNELS)))
        means = [layer(part).mean(dim=(1, 2, 3)) for layer, part in zip(layers, differences, strict=True)]
        return torch.stack(means).sum(dim=0)


class LPIPS(Metric):
    """Mean over frames at their own size; NaN for pictures below 64 pixels."""

    name = "lpips"
    values = (Value("lpips", "", "lower", "Perceptual distance by AlexNet, version 0.1."),)
    needs = (LPIPS_BACKBONE, LPIPS_HEAD)
    paired = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        backbone, head = (located(need, weights) for need in self.needs)
        self._features, self._lines = AlexNetFeatures.from_file(backbone), load_strictly(Lines(), head)

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The mean over frames."""
        assert reference is not None
        if min(video.frames.shape[1:3]) < LEAST_SIDE:
            return {"lpips": np.array(np.nan)}
        starts = range(0, len(video.frames), CHUNK)
        pairs = ((clip.frames[first : first + CHUNK] for clip in (video, reference)) for first in starts)
        return {"lpips": np.array(float(torch.cat([self.distances(*pair) for pair in pairs]).mean()))}

    @torch.no_grad()
    def distances(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Tensor:
        """(N, H, W, 3) uint8 RGB each to (N,)."""
        sides = [self._features.activations(_scaled(frames).to(device_of(self._features))) for frames in (one, other)]
        distances: Tensor = self._lines(
            [(_unit(first) - _unit(second)).square() for first, second in zip(*sides, strict=True)]
        )
        return distances.cpu()

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("lpips",))


def _scaled(frames: NDArray[np.uint8]) -> Tensor:
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    shift, scale = (torch.tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
    return (pictures - shift) / scale


def _unit(activation: Tensor) -> Tensor:
    """Every place's channels as a vector of length 1."""
    return activation / (activation.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)

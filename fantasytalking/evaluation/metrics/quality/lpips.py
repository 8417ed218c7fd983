"""LPIPS (Zhang et al. 2018), version 0.1 with AlexNet. Meaningful for self-reenactment alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.evaluation.networks.alexnet import ALEXNET_CHANNELS, AlexNetFeatures
from fantasytalking.evaluation.networks.loading import load_strict, module_device, require_weights
from fantasytalking.evaluation.weights import LPIPS_BACKBONE_WEIGHTS, LPIPS_HEAD_WEIGHTS

MIN_LPIPS_SIDE = 64
LPIPS_BATCH_SIZE = 8
# The original's shift and scale of pictures in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class _LinearLayer(nn.Module):
    """Weights of one activation's channels; the name of the inner list is that of the released file."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))


class LPIPSLinearLayers(nn.Module):
    """The weights of all five activations: lin0 to lin4."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(ALEXNET_CHANNELS):
            self.add_module(f"lin{number}", _LinearLayer(channels))

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """Five times (B, C, h, w) squared differences to (B,)."""
        layers = (self.get_submodule(f"lin{number}.model") for number in range(len(ALEXNET_CHANNELS)))
        means = [layer(part).mean(dim=(1, 2, 3)) for layer, part in zip(layers, differences, strict=True)]
        return torch.stack(means).sum(dim=0)


class LPIPS(Metric):
    """Mean over frames at their own size; NaN for pictures below 64 pixels."""

    name = "lpips"
    values = (MetricValue("lpips", "", "lower", "Perceptual distance by AlexNet, version 0.1."),)
    required_weights = (LPIPS_BACKBONE_WEIGHTS, LPIPS_HEAD_WEIGHTS)
    paired = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        backbone, head = (require_weights(need, weights) for need in self.required_weights)
        self._features, self._linear_layers = (
            AlexNetFeatures.from_file(backbone),
            load_strict(LPIPSLinearLayers(), head),
        )

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """The mean over frames."""
        assert reference is not None
        if min(video.frames.shape[1:3]) < MIN_LPIPS_SIDE:
            return {"lpips": np.array(np.nan)}
        starts = range(0, len(video.frames), LPIPS_BATCH_SIZE)
        pairs = ((clip.frames[first : first + LPIPS_BATCH_SIZE] for clip in (video, reference)) for first in starts)
        return {"lpips": np.array(float(torch.cat([self.distances(*pair) for pair in pairs]).mean()))}

    @torch.no_grad()
    def distances(self, generated: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Tensor:
        """(N, H, W, 3) uint8 RGB each to (N,)."""
        sides = [
            self._features.activations(_normalize(frames).to(module_device(self._features)))
            for frames in (generated, reference)
        ]
        distances: Tensor = self._linear_layers(
            [(_unit_normalize(first) - _unit_normalize(second)).square() for first, second in zip(*sides, strict=True)]
        )
        return distances.cpu()

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(measurements, ("lpips",))


def _normalize(frames: NDArray[np.uint8]) -> Tensor:
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    shift, scale = (torch.tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
    return (pictures - shift) / scale


def _unit_normalize(activation: Tensor) -> Tensor:
    """Every place's channels as a vector of length 1."""
    return activation / (activation.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)

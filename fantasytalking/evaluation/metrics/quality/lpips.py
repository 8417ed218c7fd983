"""LPIPS (Zhang et al. 2018), version 0.1 with AlexNet. Meaningful for self-reenactment only."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fantasytalking.common.network_file import load_strict, module_device
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, MetricValue, PairedMetric, register_metric
from fantasytalking.evaluation.networks.alexnet import ALEXNET_CHANNELS, AlexNetFeatures
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import LPIPS_BACKBONE_WEIGHTS, LPIPS_HEAD_WEIGHTS

MIN_LPIPS_SIDE = 64
LPIPS_BATCH_SIZE = 8
# The original's shift and scale of images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class _LinearLayer(nn.Module):
    """Channel weights of one activation; the inner list is named as in the released file."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))


class LPIPSLinearLayers(nn.Module):
    """Channel weights of all five activations: lin0 to lin4."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(ALEXNET_CHANNELS):
            self.add_module(f"lin{number}", _LinearLayer(channels))

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """Returns (B,) distances from five (B, C, h, w) squared differences."""
        layers = (self.get_submodule(f"lin{number}.model") for number in range(len(ALEXNET_CHANNELS)))
        means = [layer(part).mean(dim=(1, 2, 3)) for layer, part in zip(layers, differences, strict=True)]
        return torch.stack(means).sum(dim=0)


@register_metric(rank=160)
class LPIPS(PairedMetric):
    """Mean over frames at their own size; NaN for images smaller than 64 pixels."""

    name = "lpips"
    values = (MetricValue("lpips", "", "lower", "Perceptual distance by AlexNet, version 0.1."),)
    required_weights = (LPIPS_BACKBONE_WEIGHTS, LPIPS_HEAD_WEIGHTS)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        backbone, head = (require_weights(need, weights) for need in self.required_weights)
        self._features = AlexNetFeatures.from_file(backbone)
        self._linear_layers = load_strict(LPIPSLinearLayers(), head)

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the mean distance over frames."""
        if min(video.frames.shape[1:3]) < MIN_LPIPS_SIDE:
            return self.not_measurable()
        starts = range(0, len(video.frames), LPIPS_BATCH_SIZE)
        pairs = ((clip.frames[first : first + LPIPS_BATCH_SIZE] for clip in (video, reference)) for first in starts)
        return {"lpips": np.array(float(torch.cat([self.distances(*pair) for pair in pairs]).mean()))}

    @torch.no_grad()
    def distances(self, generated: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Tensor:
        """Returns (N,) distances between two batches of (N, H, W, 3) uint8 RGB frames."""
        sides = [
            self._features.activations(_normalize(frames).to(module_device(self._features)))
            for frames in (generated, reference)
        ]
        distances: Tensor = self._linear_layers(
            [(_unit_normalize(first) - _unit_normalize(second)).square() for first, second in zip(*sides, strict=True)]
        )
        return distances.cpu()


def _normalize(frames: NDArray[np.uint8]) -> Tensor:
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    shift, scale = (torch.tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
    return (images - shift) / scale


def _unit_normalize(activation: Tensor) -> Tensor:
    """Scales the channels of each position to unit length."""
    return activation / (activation.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)

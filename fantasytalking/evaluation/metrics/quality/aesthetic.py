"""Aesthetic quality by LAION's linear head on CLIP ViT-L/14, divided by ten, as in VBench."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModelWithProjection

from fantasytalking.common.network_file import compute_device, load_strict, module_device
from fantasytalking.encoders.loading import load_model
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.image_transforms import (
    CLIP_STATISTICS,
    center_crop,
    normalize_images,
    resize_short_side,
)
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import AESTHETIC_HEAD_WEIGHTS, CLIP_VIT_L_WEIGHTS

MAX_AESTHETIC_FRAMES = 16
"""Maximum number of frames per clip, evenly spaced."""


@register_metric(rank=150)
class Aesthetic(MeanMetric):
    """Mean score over frames: shorter side resized to 224 by bicubic interpolation, center crop, unit embedding."""

    name = "aesthetic"
    values = (
        MetricValue(
            "aesthetic",
            "",
            "higher",
            f"LAION aesthetic score divided by ten, at most {MAX_AESTHETIC_FRAMES} frames per clip.",
        ),
    )
    required_weights = (AESTHETIC_HEAD_WEIGHTS, CLIP_VIT_L_WEIGHTS)
    paired = False

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        head, network = (require_weights(need, weights) for need in self.required_weights)
        self._network = load_model(CLIPVisionModelWithProjection, network, "", "CLIP ViT-L/14", device=compute_device())
        self._head = load_strict(nn.Linear(self._network.config.projection_dim, 1), head)

    @torch.no_grad()
    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the mean over frames."""
        count = min(MAX_AESTHETIC_FRAMES, len(video.frames))
        frames = video.frames[np.linspace(0, len(video.frames) - 1, count).round().astype(int)]
        side = self._network.config.image_size
        images = center_crop(resize_short_side(frames, side, "bicubic"), side)
        pixels = normalize_images(images, CLIP_STATISTICS).to(module_device(self._head))
        scores = self._head(F.normalize(self._network(pixels).image_embeds, dim=-1))
        return {"aesthetic": np.array(float(scores.mean()) / 10)}

"""Aesthetic quality by LAION's linear head on CLIP ViT-L/14, over ten, as in VBench."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModelWithProjection

from fantasytalking.encoders.loading import load_model
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.image_transforms import CLIP, centre_square, normalised, short_side
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.networks.loading import compute_device, device_of, load_strictly, located
from fantasytalking.evaluation.weights import AESTHETIC_HEAD, CLIP_VIT_L

FRAMES = 16
"""Frames of a clip at most, evenly spaced."""


class Aesthetic(Metric):
    """Mean score of frames: shorter side to 224 by bicubic interpolation, the middle square, embedded to length 1."""

    name = "aesthetic"
    values = (Value("aesthetic", "", "higher", f"LAION aesthetic score over ten, at most {FRAMES} frames a clip."),)
    needs = (AESTHETIC_HEAD, CLIP_VIT_L)
    paired = False

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        head, network = (located(need, weights) for need in self.needs)
        self._network = load_model(CLIPVisionModelWithProjection, network, "", "CLIP ViT-L/14", device=compute_device())
        self._head = load_strictly(nn.Linear(self._network.config.projection_dim, 1), head)

    @torch.no_grad()
    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The mean over frames."""
        count = min(FRAMES, len(video.frames))
        frames = video.frames[np.linspace(0, len(video.frames) - 1, count).round().astype(int)]
        side = self._network.config.image_size
        pictures = normalised(centre_square(short_side(frames, side, "bicubic"), side), CLIP).to(device_of(self._head))
        scores = self._head(F.normalize(self._network(pictures).image_embeds, dim=-1))
        return {"aesthetic": np.array(float(scores.mean()) / 10)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("aesthetic",))

"""FID: the Frechet distance of Inception features of single frames, as computed by pytorch-fid."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.common.network_file import module_device
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.frechet_distance import FrechetMetric
from fantasytalking.evaluation.networks.inception import Inception
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import INCEPTION_WEIGHTS

MAX_FID_FRAMES = 32
"""Maximum number of frames per clip, evenly spaced: neighboring frames add little, and the distance depends on their
number."""
FID_BATCH_SIZE = 8


@register_metric(rank=10)
class FID(FrechetMetric):
    """FID of Heusel et al. 2017: 2048 features of pool3, frames resized to 299 pixels by torch's bilinear filter.

    Few frames bias it upward: compare equal numbers of frames only, and see the floor of real against real.
    """

    name = "fid"
    values = (
        MetricValue(
            "fid", "", "lower", f"Frechet distance of Inception features, at most {MAX_FID_FRAMES} frames per clip."
        ),
        MetricValue("fid_frames", "", "reference", "Frames per side: the distance depends on their number."),
    )
    required_weights = (INCEPTION_WEIGHTS,)
    resamples = 100
    unbiased = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = Inception.from_file(require_weights(self.required_weights[0], weights))

    @torch.no_grad()
    def extract_features(self, clip: EvaluationClip) -> NDArray[np.float32]:
        """Returns (N, 2048) features of evenly spaced frames."""
        count = min(MAX_FID_FRAMES, len(clip.frames))
        chosen = clip.frames[np.linspace(0, len(clip.frames) - 1, count).round().astype(int)]
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        parts = (part.to(module_device(self._network)).float() / 255 for part in images.split(FID_BATCH_SIZE))
        return torch.cat([self._network(part) for part in parts]).cpu().numpy()

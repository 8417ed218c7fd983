"""FID: the Frechet distance of Inception features of single frames, as pytorch-fid computes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.metrics.frechet_distance import frechet_distance
from fantasytalking.evaluation.networks.inception import Inception
from fantasytalking.evaluation.networks.loading import module_device, require_weights
from fantasytalking.evaluation.weights import INCEPTION_WEIGHTS

MAX_FID_FRAMES = 32
"""Frames of a clip at most, evenly spaced: neighbours say the same, and the distance depends on their number."""
FID_BATCH_SIZE = 8


class FID(Metric):
    """Heusel et al. 2017, on the 2048 features of pool3; frames scaled to 299 by torch's bilinear filter.

    Few frames bias it upward: compare equal numbers only, and see the floor of real against real.
    """

    name = "fid"
    values = (
        MetricValue(
            "fid", "", "lower", f"Frechet distance of Inception features, at most {MAX_FID_FRAMES} frames a clip."
        ),
        MetricValue("fid_frames", "", "reference", "Frames on either side: the distance depends on their number."),
    )
    required_weights = (INCEPTION_WEIGHTS,)
    paired = True
    distribution = True
    resamples = 100

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = Inception.from_file(require_weights(self.required_weights[0], weights))

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """(N, 2048) features of both sides."""
        assert reference is not None
        return {"video": self._features(video), "reference": self._features(reference)}

    @torch.no_grad()
    def _features(self, clip: EvaluationClip) -> NDArray[np.float32]:
        count = min(MAX_FID_FRAMES, len(clip.frames))
        chosen = clip.frames[np.linspace(0, len(clip.frames) - 1, count).round().astype(int)]
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        parts = (part.to(module_device(self._network)).float() / 255 for part in images.split(FID_BATCH_SIZE))
        return torch.cat([self._network(part) for part in parts]).cpu().numpy()

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The distance of all frames of all clips."""
        return frechet_from_measurements(measurements, "fid", "fid_frames", unbiased=True)


def frechet_from_measurements(
    measurements: Sequence[Measurement], name: str, count: str, *, unbiased: bool
) -> dict[str, float]:
    """The Frechet distance of `video` against `reference` features, how many there are, and of how many clips."""
    used = [record for record in measurements if len(record["video"]) and len(record["reference"])]
    if not used:
        return {name: np.nan, count: 0.0, "n": 0.0}
    video, reference = (np.concatenate([record[side] for record in used]) for side in ("video", "reference"))
    distance = frechet_distance(video, reference, unbiased=unbiased)
    return {name: distance, count: float(min(len(video), len(reference))), "n": float(len(used))}

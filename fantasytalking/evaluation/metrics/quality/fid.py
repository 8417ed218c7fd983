"""FID: the Frechet distance of Inception features of single frames, as pytorch-fid computes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value
from fantasytalking.evaluation.metrics.frechet_distance import frechet_distance
from fantasytalking.evaluation.networks.inception import Inception
from fantasytalking.evaluation.networks.loading import device_of, located
from fantasytalking.evaluation.weights import INCEPTION

FRAMES = 32
"""Frames of a clip at most, evenly spaced: neighbours say the same, and the distance depends on their number."""
CHUNK = 8


class FID(Metric):
    """Heusel et al. 2017, on the 2048 features of pool3; frames scaled to 299 by torch's bilinear filter.

    Few frames bias it upward: compare equal numbers only, and see the floor of real against real.
    """

    name = "fid"
    values = (
        Value("fid", "", "lower", f"Frechet distance of Inception features, at most {FRAMES} frames a clip."),
        Value("fid_frames", "", "reference", "Frames on either side: the distance depends on their number."),
    )
    needs = (INCEPTION,)
    paired = True
    distribution = True
    resamples = 100

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = Inception.from_file(located(self.needs[0], weights))

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """(N, 2048) features of both sides."""
        assert reference is not None
        return {"video": self._features(video), "reference": self._features(reference)}

    @torch.no_grad()
    def _features(self, clip: Clip) -> NDArray[np.float32]:
        count = min(FRAMES, len(clip.frames))
        chosen = clip.frames[np.linspace(0, len(clip.frames) - 1, count).round().astype(int)]
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        parts = (part.to(device_of(self._network)).float() / 255 for part in images.split(CHUNK))
        return torch.cat([self._network(part) for part in parts]).cpu().numpy()

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The distance of all frames of all clips."""
        return distance_of_records(records, "fid", "fid_frames", unbiased=True)


def distance_of_records(records: Sequence[Record], name: str, count: str, *, unbiased: bool) -> dict[str, float]:
    """The Frechet distance of `video` against `reference` features, how many there are, and of how many clips."""
    used = [record for record in records if len(record["video"]) and len(record["reference"])]
    if not used:
        return {name: np.nan, count: 0.0, "n": 0.0}
    video, reference = (np.concatenate([record[side] for record in used]) for side in ("video", "reference"))
    distance = frechet_distance(video, reference, unbiased=unbiased)
    return {name: distance, count: float(min(len(video), len(reference))), "n": float(len(used))}

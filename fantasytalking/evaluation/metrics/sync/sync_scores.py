"""Sync-C, Sync-D and offset by SyncNet, as its authors score them, and a variant that is free of their padding."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.mfcc import mfcc
from fantasytalking.evaluation.features.syncnet_input import RATE, SAMPLES_PER_FRAME, mouth_crops, samples16
from fantasytalking.evaluation.features.time_series import per_second
from fantasytalking.evaluation.metric import Curve, Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.networks.loading import located
from fantasytalking.evaluation.networks.syncnet_model import FRAMES, SyncNet, window_features
from fantasytalking.evaluation.weights import SYNCNET

SHIFT = 15
"""Frames by which the sound is moved to both sides."""


class SyncScores(NamedTuple):
    """How well a clip's windows agree with its sound."""

    distance: float
    """Sync-D: the least mean distance over the shifts."""
    confidence: float
    """Sync-C: the median over the shifts less the least."""
    offset: float
    """Frames at 25 a second of the least distance; positive: the sound leads."""
    valid_distance: float
    valid_confidence: float
    """The same where sound beyond the clip's ends is left out and not taken as zeros; NaN up to 15 windows."""
    along: Tensor
    """(N,) distance of each window at the offset; NaN where the sound shifted lies beyond the clip."""


def sync_scores(seen: Tensor, heard: Tensor) -> SyncScores:
    """Scores of (N, 1024) features of what is seen and heard in the same N windows.

    dbar_j = mean_i || seen_i - heard_(i + j - 15) + 1e-6 ||, j = 0..30, with zeros for what lies beyond the ends. These
    zeros bias the confidence by the clip's length: compare equal lengths only.
    """
    count = len(seen)
    places = torch.arange(count)[:, None] + torch.arange(2 * SHIFT + 1)[None] - SHIFT  # (N, 31)
    padded = pad(heard, (0, 0, SHIFT, SHIFT))
    distances = (seen[:, None] - padded[places + SHIFT] + 1e-6).norm(dim=-1)
    inside = torch.where((places >= 0) & (places < count), distances, torch.nan)
    mean, valid = distances.mean(dim=0), inside.nanmean(dim=0)
    best = int(mean.argmin())
    return SyncScores(
        float(mean[best]),
        float(mean.median() - mean[best]),
        float(SHIFT - best),
        float(valid.min()) if count > SHIFT else np.nan,
        float(valid.median() - valid.min()) if count > SHIFT else np.nan,
        inside[:, best],
    )


class Sync(Metric):
    """SyncNet (Chung and Zisserman 2016) with its released weights.

    Clips of other than 25 frames a second are brought to 25 by the nearest frames. A clip without a face or sound, or
    of fewer than six frames, cannot be scored.
    """

    name = "syncnet"
    values = (
        Value("sync_c", "", "higher", "SyncNet's confidence; depends on the clip's length."),
        Value("sync_d", "", "lower", "SyncNet's distance at the best shift."),
        Value("sync_offset", "frames", "reference", "Median over clips of the best shift; positive: the sound leads."),
        Value("sync_c_valid", "", "higher", "Confidence without zeros in place of sound beyond the clip's ends."),
        Value("sync_d_valid", "", "lower", "Distance without zeros in place of sound beyond the clip's ends."),
        Value("sync_windows", "", "reference", "Windows a clip: scores of other lengths cannot be compared."),
    )
    needs = (SYNCNET,)
    paired = False
    hears = True
    curves = (Curve("sync_curve", "", "SyncNet's distance at the clip's best shift; lower is better."),)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = SyncNet.from_file(located(self.needs[0], weights))

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Scores of the clip with its own sound."""
        count = _windows(video)
        if count < 1 or not video.has_face:
            return _unknown()
        cepstra = torch.from_numpy(mfcc(samples16(video.sound)))
        frames = torch.from_numpy(mouth_crops(video))
        scores = sync_scores(*window_features(self._network, frames, cepstra, count))
        times = (np.arange(count) + FRAMES / 2) / RATE
        record = dict(zip(_SCALARS, map(np.array, (*scores[:5], float(count))), strict=True))
        return record | {"sync_curve": per_second(scores.along.numpy(), times, len(video.frames) / video.fps)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips, and the median of the offsets."""
        offsets = np.array([float(record["sync_offset"]) for record in records])
        known = offsets[np.isfinite(offsets)]
        middle = float(np.median(known)) if len(known) else np.nan
        return mean_over_clips(records, _SCALARS) | {"sync_offset": middle}


_SCALARS = ("sync_d", "sync_c", "sync_offset", "sync_d_valid", "sync_c_valid", "sync_windows")


def _windows(video: Clip) -> int:
    """min(frames, samples // 640) - 5, as the authors count; 0 without sound."""
    try:
        samples = len(video.sound)
    except InputError:
        return 0
    return min(round(len(video.frames) / video.fps * RATE), samples // SAMPLES_PER_FRAME) - FRAMES


def _unknown() -> Record:
    return {name: np.array(np.nan) for name in _SCALARS} | {"sync_curve": np.zeros(0)}

"""Distance, confidence and offset of SyncNet, as its authors compute them, and a variant without their padding."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

MAX_SHIFT = 15
"""Largest shift of the audio in frames, to both sides."""


class SyncScores(NamedTuple):
    """Agreement of a clip's windows with its audio."""

    distance: float
    """Sync-D: the smallest mean distance over the shifts."""
    confidence: float
    """Sync-C: the median over the shifts minus the smallest."""
    offset: float
    """Shift of the smallest distance, in frames at 25 per second; positive: the audio leads."""
    valid_distance: float
    """Sync-D without audio beyond the ends of the clip, in place of zeros there; NaN for up to 15 windows."""
    valid_confidence: float
    """Sync-C without audio beyond the ends of the clip; NaN for up to 15 windows."""
    distance_per_window: Tensor
    """(N,) distance of each window at the offset; NaN where the shifted audio lies beyond the clip."""


def sync_scores(video_features: Tensor, audio_features: Tensor) -> SyncScores:
    """Computes the scores from the (N, 1024) video features and (N, 1024) audio features of the same N windows.

    dbar_j = mean_i || video_i - audio_(i + j - 15) + 1e-6 ||, j = 0..30, with zeros for audio beyond the ends. These
    zeros bias the confidence depending on the clip's length: compare equal lengths only.
    """
    count = len(video_features)
    indices = torch.arange(count)[:, None] + torch.arange(2 * MAX_SHIFT + 1)[None] - MAX_SHIFT  # (N, 31)
    padded = pad(audio_features, (0, 0, MAX_SHIFT, MAX_SHIFT))
    distances = (video_features[:, None] - padded[indices + MAX_SHIFT] + 1e-6).norm(dim=-1)
    inside = torch.where((indices >= 0) & (indices < count), distances, torch.nan)
    mean, valid = distances.mean(dim=0), inside.nanmean(dim=0)
    best = int(mean.argmin())
    return SyncScores(
        float(mean[best]),
        float(mean.median() - mean[best]),
        float(MAX_SHIFT - best),
        float(valid.min()) if count > MAX_SHIFT else np.nan,
        float(valid.median() - valid.min()) if count > MAX_SHIFT else np.nan,
        inside[:, best],
    )

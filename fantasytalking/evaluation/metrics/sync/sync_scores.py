"""Sync-C, Sync-D and offset by SyncNet, as its authors compute them, and a variant without their padding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.time_series import mean_per_second
from fantasytalking.evaluation.metric import (
    Measurement,
    Metric,
    MetricCurve,
    MetricValue,
    mean_over_clips,
    register_metric,
)
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import SYNCNET_WEIGHTS
from fantasytalking.perception.syncnet.mfcc import mfcc
from fantasytalking.perception.syncnet.sync_distance import sync_scores
from fantasytalking.perception.syncnet.syncnet_input import SYNCNET_FPS, count_windows, syncnet_crops, to_int16
from fantasytalking.perception.syncnet.syncnet_model import SYNCNET_WINDOW_FRAMES, SyncNet, window_features


@register_metric(rank=30)
class SyncNetMetric(Metric):
    """SyncNet (Chung and Zisserman 2016) with its released weights.

    Clips are resampled to 25 frames per second by the nearest frames. A clip without a face or audio, or of fewer than
    six frames, has no score.
    """

    name = "syncnet"
    values = (
        MetricValue("sync_c", "", "higher", "SyncNet's confidence; depends on the clip's length."),
        MetricValue("sync_d", "", "lower", "SyncNet's distance at the best shift."),
        MetricValue(
            "sync_offset", "frames", "reference", "Median over clips of the best shift; positive: the audio leads."
        ),
        MetricValue("sync_c_valid", "", "higher", "Confidence without zeros in place of audio beyond the clip's ends."),
        MetricValue("sync_d_valid", "", "lower", "Distance without zeros in place of audio beyond the clip's ends."),
        MetricValue("sync_windows", "", "reference", "Windows per clip: scores of other lengths are not comparable."),
    )
    required_weights = (SYNCNET_WEIGHTS,)
    paired = False
    uses_audio = True
    curves = (MetricCurve("sync_curve", "", "SyncNet's distance at the clip's best shift; lower is better."),)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = SyncNet.from_file(require_weights(self.required_weights[0], weights))

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the scores of the clip with its own audio."""
        count = _count_windows(video)
        if count < 1 or not video.has_face:
            return _missing_measurement()
        cepstra = torch.from_numpy(mfcc(to_int16(video.audio)))
        frames = torch.from_numpy(syncnet_crops(video.frames, video.times, video.fps, video.track))
        scores = sync_scores(*window_features(self._network, frames, cepstra, count))
        times = (np.arange(count) + SYNCNET_WINDOW_FRAMES / 2) / SYNCNET_FPS
        record = dict(zip(_SCALARS, map(np.array, (*scores[:5], float(count))), strict=True))
        return record | {
            "sync_curve": mean_per_second(scores.distance_per_window.numpy(), times, len(video.frames) / video.fps)
        }

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns means over clips, and the median of the offsets."""
        offsets = np.array([float(record["sync_offset"]) for record in measurements])
        known = offsets[np.isfinite(offsets)]
        median = float(np.median(known)) if len(known) else np.nan
        return mean_over_clips(measurements, _SCALARS) | {"sync_offset": median}


_SCALARS = ("sync_d", "sync_c", "sync_offset", "sync_d_valid", "sync_c_valid", "sync_windows")


def _count_windows(video: EvaluationClip) -> int:
    """Returns the number of windows; 0 without audio."""
    try:
        samples = len(video.audio)
    except InputError:
        return 0
    return count_windows(len(video.frames), video.fps, samples)


def _missing_measurement() -> Measurement:
    return {name: np.array(np.nan) for name in _SCALARS} | {"sync_curve": np.zeros(0)}

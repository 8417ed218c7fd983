"""The measures of THEval that need no weights; see fantasytalking/evaluation/features/theval_landmarks.py."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.theval_landmarks import (
    REAL_VIDEO_MEANS,
    brow_dynamics,
    lip_dynamics,
    lip_sync,
    silent_lips,
)
from fantasytalking.evaluation.features.time_series import mean_per_second
from fantasytalking.evaluation.features.voice_activity import frame_volume, speech_frames
from fantasytalking.evaluation.metric import Measurement, Metric, MetricCurve, MetricValue, register_metric


@register_metric(rank=250)
class THEval(Metric):
    """Mean of each measure over the clips in which it exists: not every clip has speech or silence.

    `real` in the descriptions is the paper's mean over its real videos.
    """

    name = "theval"
    values = (
        MetricValue(
            "theval_lip_sync", "", "reference", f"Mouth against volume in speech; real: {REAL_VIDEO_MEANS['lip_sync']}."
        ),
        MetricValue(
            "theval_silent_lips", "", "reference", f"Lip motion in silence; real: {REAL_VIDEO_MEANS['silent_lips']}."
        ),
        MetricValue(
            "theval_lip_dynamics",
            "px",
            "reference",
            f"Change of the lips' shape; real: {REAL_VIDEO_MEANS['lip_dynamics']}.",
        ),
        MetricValue(
            "theval_brow_dynamics", "", "reference", f"Change of the brows; real: {REAL_VIDEO_MEANS['brow_dynamics']}."
        ),
        MetricValue("theval_speech_n", "", "reference", "Number of clips with enough speech."),
        MetricValue("theval_silent_n", "", "reference", "Number of clips with a silence of at least 300 ms."),
    )
    paired = False
    uses_audio = True
    curves = (MetricCurve("theval_curve", "", "Difference of mouth and volume in speech; lower is better."),)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns the four measures; NaN without a face, audio, speech or silence."""
        return theval_measures(video)

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Returns the mean of each measure over the clips that have it; `n` counts those with a face."""
        means = {f"theval_{name}": finite_mean(measurements, f"theval_{name}")[0] for name in REAL_VIDEO_MEANS}
        return means | {
            "theval_speech_n": finite_mean(measurements, "theval_lip_sync")[1],
            "theval_silent_n": finite_mean(measurements, "theval_silent_lips")[1],
            "n": finite_mean(measurements, "theval_lip_dynamics")[1],
        }


def theval_measures(clip: EvaluationClip) -> Measurement:
    """Returns the four measures of a clip and its curve."""
    volume, landmarks = frame_volume(clip), clip.track.landmarks
    sync_per_frame, silent = np.full(len(landmarks), np.nan), np.nan
    if volume is not None:
        speech = speech_frames(volume, clip.fps)
        sync_per_frame = lip_sync(landmarks, volume, speech)
        silent = silent_lips(landmarks, speech, clip.fps)
    known = sync_per_frame[np.isfinite(sync_per_frame)]
    return {
        "theval_lip_sync": np.array(known.mean() if len(known) else np.nan),
        "theval_silent_lips": np.array(silent),
        "theval_lip_dynamics": np.array(lip_dynamics(landmarks, *clip.frames.shape[1:3])),
        "theval_brow_dynamics": np.array(brow_dynamics(landmarks)),
        "theval_curve": mean_per_second(sync_per_frame, clip.times, len(clip.frames) / clip.fps),
    }


def finite_mean(measurements: Sequence[Measurement], name: str) -> tuple[float, float]:
    """Returns the mean of an entry over the clips where it is finite (NaN if none), and the number of these clips."""
    values = np.array([float(record[name]) for record in measurements])
    values = values[np.isfinite(values)]
    return (float(values.mean()) if len(values) else np.nan), float(len(values))

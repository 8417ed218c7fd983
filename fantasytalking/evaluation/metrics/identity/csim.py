"""CSIM: identity preservation, as the cosine of ArcFace embeddings to the portrait's."""

from pathlib import Path

import numpy as np

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.face_embeddings import (
    EMBEDDINGS_PER_SECOND,
    face_embeddings,
    first_face_frame,
    sampled_frames,
)
from fantasytalking.evaluation.features.time_series import drift_per_second, mean_per_second
from fantasytalking.evaluation.metric import (
    Measurement,
    MetricCurve,
    MetricValue,
    PairedMetric,
    Target,
    register_metric,
)
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import ARCFACE_WEIGHTS


@register_metric(rank=90)
class CSIM(PairedMetric):
    """Mean cosine of the video's faces to the first face of the reference, which is the portrait.

    Faces are aligned by five points of MediaPipe's landmarks as insightface's norm_crop does, at five frames per
    second. Scores with other networks, alignments or reference frames are not comparable.
    """

    name = "csim"
    values = (
        MetricValue(
            "csim",
            "",
            "higher",
            f"Cosine of ArcFace embeddings to the reference's first, {EMBEDDINGS_PER_SECOND:g} per second.",
        ),
        MetricValue(
            "csim_drift", "1/s", "higher", "Change of that cosine over time; below 0: the identity is being lost."
        ),
    )
    required_weights = (ARCFACE_WEIGHTS,)
    target = Target.PORTRAIT
    per_person = True
    curves = (MetricCurve("csim_curve", "", "Cosine of ArcFace embeddings to the reference's first frame."),)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._encoder = FaceEncoder.from_pretrained(require_weights(self.required_weights[0], weights))

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the mean, the drift and the cosine over time; NaN if a side has no face."""
        frames, portrait = sampled_frames(video), first_face_frame(reference)
        cosines = np.full(len(frames), np.nan)
        if len(portrait):
            cosines = (
                face_embeddings(video, self._encoder, frames) @ face_embeddings(reference, self._encoder, portrait)[0]
            )
        times, known = video.times[frames], cosines[np.isfinite(cosines)]
        return {
            self.name: np.array(known.mean() if len(known) else np.nan),
            f"{self.name}_drift": np.array(drift_per_second(cosines, times)),
            f"{self.name}_curve": mean_per_second(cosines, times, len(video.frames) / video.fps),
        }

"""ES-ArcFace: similarity of face features to those of the reference at the same time.

The paper's ES compares "extracted face features" by a network that it does not name. This metric uses ArcFace and has
its own name: the numbers are not comparable with the paper's ES.
"""

from pathlib import Path

import numpy as np

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.face_embeddings import face_embeddings, sampled_frames
from fantasytalking.evaluation.metric import Measurement, MetricValue, PairedMetric, register_metric
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import ARCFACE_WEIGHTS


@register_metric(rank=120)
class ArcFaceExpressionSimilarity(PairedMetric):
    """Mean cosine of ArcFace embeddings of video and reference at the same times, five frames per second."""

    name = "es_arcface"
    values = (
        MetricValue("es_arcface", "", "higher", "Cosine of ArcFace embeddings to the reference's at the same time."),
    )
    required_weights = (ARCFACE_WEIGHTS,)
    per_person = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._encoder = FaceEncoder.from_pretrained(require_weights(self.required_weights[0], weights))

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns the mean over frames in which both faces are known."""
        frames = sampled_frames(video)
        cosines = (
            face_embeddings(video, self._encoder, frames) * face_embeddings(reference, self._encoder, frames)
        ).sum(axis=1)
        known = cosines[np.isfinite(cosines)]
        return {"es_arcface": np.array(known.mean() if len(known) else np.nan)}

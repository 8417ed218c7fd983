"""ES-ArcFace: similarity of face features to the reference's at the same moment.

The paper's ES compares "extracted face features" by a network that it does not name. ArcFace stands here in its own
name: the numbers are not the paper's ES.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.face_embeddings import embeddings, looked_at
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.networks.loading import located
from fantasytalking.evaluation.weights import ARCFACE


class ESArcFace(Metric):
    """Mean cosine of ArcFace embeddings of video and reference at the same times, five frames a second."""

    name = "es_arcface"
    values = (Value("es_arcface", "", "higher", "Cosine of ArcFace embeddings to the reference's at the same time."),)
    needs = (ARCFACE,)
    paired = True
    per_person = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._encoder = FaceEncoder.from_pretrained(located(self.needs[0], weights))

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The mean over frames in which both faces are known."""
        assert reference is not None
        frames = looked_at(video)
        cosines = (embeddings(video, self._encoder, frames) * embeddings(reference, self._encoder, frames)).sum(axis=1)
        known = cosines[np.isfinite(cosines)]
        return {"es_arcface": np.array(known.mean() if len(known) else np.nan)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over clips."""
        return mean_over_clips(records, ("es_arcface",))

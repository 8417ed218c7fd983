"""CSIM: whether the person stays the person of the portrait, by ArcFace."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fantasytalking.encoders.arcface import FaceEncoder
from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.features.face_embeddings import PER_SECOND, embeddings, first_known, looked_at
from fantasytalking.evaluation.features.time_series import drift, per_second
from fantasytalking.evaluation.metric import Against, Curve, Metric, Record, Value, mean_over_clips
from fantasytalking.evaluation.networks.loading import located
from fantasytalking.evaluation.weights import ARCFACE


class CSIM(Metric):
    """Mean cosine of the video's faces to the first face of the reference, which is the portrait.

    Aligned by five points of MediaPipe's landmarks as insightface's norm_crop does; five frames a second. Scores of
    other recognisers, alignments or frames of reference cannot be compared.
    """

    name = "csim"
    values = (
        Value("csim", "", "higher", f"Cosine of ArcFace embeddings to the reference's first, {PER_SECOND:g} a second."),
        Value("csim_drift", "1/s", "higher", "Change of that cosine with time; below 0: the person is lost."),
    )
    needs = (ARCFACE,)
    paired = True
    against = Against.PORTRAIT
    per_person = True
    curves = (Curve("csim_curve", "", "Cosine of ArcFace embeddings to the reference's first frame."),)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._encoder = FaceEncoder.from_pretrained(located(self.needs[0], weights))

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """The mean, the drift and the cosine over time; NaN where a side has no face."""
        assert reference is not None
        frames, portrait = looked_at(video), first_known(reference)
        cosines = np.full(len(frames), np.nan)
        if len(portrait):
            cosines = embeddings(video, self._encoder, frames) @ embeddings(reference, self._encoder, portrait)[0]
        times, known = video.times[frames], cosines[np.isfinite(cosines)]
        return {
            self.name: np.array(known.mean() if len(known) else np.nan),
            f"{self.name}_drift": np.array(drift(cosines, times)),
            f"{self.name}_curve": per_second(cosines, times, len(video.frames) / video.fps),
        }

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, (self.name, f"{self.name}_drift"))

"""Base of the metrics that compare the faces of a video and its reference frame by frame."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, PairedMetric


class FacePairMetric(PairedMetric):
    """Means over the frames in which both faces are known."""

    per_person = True

    @abstractmethod
    def face_scores(
        self, video: EvaluationClip, reference: EvaluationClip, frames: NDArray[np.bool_]
    ) -> tuple[NDArray[np.floating], ...]:
        """Returns (N,) scores for each of `values`, over the N of T `frames` that are True."""

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns means over frames; NaN if no frame has both faces."""
        both = video.track.known & reference.track.known
        if not both.any():
            return self.not_measurable()
        scores = zip(self.values, self.face_scores(video, reference, both), strict=True)
        return {value.name: np.array(per_frame.mean()) for value, per_frame in scores}

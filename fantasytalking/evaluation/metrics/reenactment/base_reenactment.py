"""Base of the metrics that compare the motion of a face with that of its driving video."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, PairedMetric, Target


class DriverDistanceMetric(PairedMetric):
    """Mean distance over the frames in which both faces are visible.

    The first of `values` is the plain distance, the second the distance after removing each video's own mean, since two
    people differ at rest.
    """

    target = Target.DRIVER
    reenactment_only = True
    per_person = True

    @abstractmethod
    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """Returns (T,) whether the face can be measured."""

    @abstractmethod
    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """Returns (T, ...) measurements of the face."""

    @abstractmethod
    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """Returns the mean distance between two (T, ...) measurements."""

    def compare(self, video: EvaluationClip, reference: EvaluationClip) -> Measurement:
        """Returns both distances; NaN if no frame shows both faces."""
        both = self.visible_frames(video) & self.visible_frames(reference)
        if not both.any():
            return self.not_measurable()
        plain, centered = (value.name for value in self.values)
        generated, driving = (self.extract(clip)[both] for clip in (video, reference))
        deviations = generated - generated.mean(axis=0), driving - driving.mean(axis=0)
        return {
            plain: np.array(self.mean_distance(generated, driving)),
            centered: np.array(self.mean_distance(*deviations)),
        }

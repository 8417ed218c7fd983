"""How far what a face does lies from what is done by whoever drives it: as it is read, and centred."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, Target, mean_over_clips


class DriverDistanceMetric(Metric):
    """Means over the frames in which both are seen.

    The first of `values` is the distance as it is read, the second the same with each video's own mean taken out: two
    people differ whatever they do.
    """

    paired = True
    target = Target.DRIVER
    reenactment_only = True
    per_person = True

    @abstractmethod
    def visible_frames(self, clip: EvaluationClip) -> NDArray[np.bool_]:
        """(T,) frames in which it can be read."""

    @abstractmethod
    def extract(self, clip: EvaluationClip) -> NDArray[np.float64]:
        """(T, ...) what the face does."""

    @abstractmethod
    def mean_distance(self, generated: NDArray[np.float64], driving: NDArray[np.float64]) -> float:
        """The mean over (T, ...) of two that were read."""

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Both distances; NaN where no frame shows both."""
        assert reference is not None
        plain, centred = (value.name for value in self.values)
        both = self.visible_frames(video) & self.visible_frames(reference)
        if not both.any():
            return {plain: np.array(np.nan), centred: np.array(np.nan)}
        ours, theirs = (self.extract(clip)[both] for clip in (video, reference))
        around = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
        return {plain: np.array(self.mean_distance(ours, theirs)), centred: np.array(self.mean_distance(*around))}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(measurements, tuple(value.name for value in self.values))

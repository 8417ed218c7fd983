"""How far what a face does lies from what is done by whoever drives it: as it is read, and centred."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Against, Metric, Record, mean_over_clips


class DrivenDistance(Metric):
    """Means over the frames in which both are seen.

    The first of `values` is the distance as it is read, the second the same with each video's own mean taken out: two
    people differ whatever they do.
    """

    paired = True
    against = Against.DRIVER
    driven = True
    per_person = True

    @abstractmethod
    def seen(self, clip: Clip) -> NDArray[np.bool_]:
        """(T,) frames in which it can be read."""

    @abstractmethod
    def read(self, clip: Clip) -> NDArray[np.float64]:
        """(T, ...) what the face does."""

    @abstractmethod
    def distance(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        """The mean over (T, ...) of two that were read."""

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Both distances; NaN where no frame shows both."""
        assert reference is not None
        plain, centred = (value.name for value in self.values)
        both = self.seen(video) & self.seen(reference)
        if not both.any():
            return {plain: np.array(np.nan), centred: np.array(np.nan)}
        ours, theirs = (self.read(clip)[both] for clip in (video, reference))
        around = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
        return {plain: np.array(self.distance(ours, theirs)), centred: np.array(self.distance(*around))}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, tuple(value.name for value in self.values))

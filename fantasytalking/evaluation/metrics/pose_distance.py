"""APD: how differently the head is turned from that of whoever drives it, at each moment."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.clip import Clip
from fantasytalking.evaluation.metric import Against, Metric, Record, Value, mean_over_clips
from fantasytalking.perception.head_pose import head_pose

_NAMES = ("apd", "apd_centred")


class PoseDistance(Metric):
    """Mean absolute difference of yaw, pitch and roll, as `head_pose` reads them from MediaPipe's mesh.

    The pitch that it reads has an offset of each face's own, which `apd` has in it where two people are compared;
    centred, each video's mean angles are taken out.
    """

    name = "apd"
    values = (
        Value("apd", "degrees", "lower", "Difference of yaw, pitch and roll by MediaPipe's mesh, their mean."),
        Value("apd_centred", "degrees", "lower", "The same with each video's mean angles taken out."),
    )
    paired = True
    against = Against.DRIVER
    driven = True
    per_person = True

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Means over the frames in which both faces are known; NaN where there is none."""
        assert reference is not None
        both = video.track.known & reference.track.known
        if not both.any():
            return {name: np.array(np.nan) for name in _NAMES}
        ours, theirs = (np.degrees(head_pose(clip.track.landmarks).angles[both]) for clip in (video, reference))
        centred = (ours - ours.mean(axis=0)) - (theirs - theirs.mean(axis=0))
        return {"apd": np.array(np.abs(ours - theirs).mean()), "apd_centred": np.array(np.abs(centred).mean())}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(records, _NAMES)

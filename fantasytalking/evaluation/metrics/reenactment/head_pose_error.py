"""How differently the head is turned and placed from the reference's at each moment."""

from collections.abc import Sequence

import numpy as np

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.perception.head_pose import head_pose

_VALUE_NAMES = ("pose_angle", "pose_place")


class HeadPoseError(Metric):
    """Angle of the rotation between both heads, and the distance of their centres, over frames where both are known.

    A generated head that moves well but otherwise is no worse for it: small only in self-reenactment.
    """

    name = "pose"
    values = (
        MetricValue("pose_angle", "degrees", "lower", "Angle between the head's and the reference's rotation."),
        MetricValue("pose_place", "eye distances", "lower", "Distance of the head's centre from the reference's."),
    )
    paired = True
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Means over frames; NaN where no frame has both faces."""
        assert reference is not None
        both = video.track.known & reference.track.known
        if not both.any():
            return {name: np.array(np.nan) for name in _VALUE_NAMES}
        ours, theirs = (head_pose(clip.track.landmarks) for clip in (video, reference))
        trace = np.einsum("tij,tij->t", ours.rotation[both], theirs.rotation[both])
        angles = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
        apart = np.linalg.norm((ours.translation - theirs.translation)[both, :2], axis=1)
        return {
            "pose_angle": np.array(angles.mean()),
            "pose_place": np.array((apart / reference.track.interocular[both]).mean()),
        }

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips."""
        return mean_over_clips(measurements, _VALUE_NAMES)

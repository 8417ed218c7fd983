"""Difference between the pose of the head and that of the reference, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.reenactment.base_face_pair import FacePairMetric
from fantasytalking.perception.head_pose import head_pose


@register_metric(rank=200)
class HeadPoseError(FacePairMetric):
    """Angle of the rotation between both heads, and distance of their centers, over frames where both are known.

    A generated head that moves well, but differently, is not worse for it: expect low values only in self-reenactment.
    """

    name = "pose"
    values = (
        MetricValue("pose_angle", "degrees", "lower", "Angle between the rotations of the head and of the reference."),
        MetricValue("pose_place", "eye distances", "lower", "Distance of the head's center from the reference's."),
    )

    def face_scores(
        self, video: EvaluationClip, reference: EvaluationClip, frames: NDArray[np.bool_]
    ) -> tuple[NDArray[np.floating], ...]:
        """Returns the angles in degrees and the distances in eye distances of the reference."""
        generated, real = (head_pose(clip.track.landmarks) for clip in (video, reference))
        trace = np.einsum("tij,tij->t", generated.rotation[frames], real.rotation[frames])
        angles = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
        distances = np.linalg.norm((generated.translation - real.translation)[frames, :2], axis=1)
        return angles, distances / reference.track.interocular[frames]

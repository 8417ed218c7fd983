"""Fine detail of the face, which smears and blur remove."""

import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric

FACE_SIDE = 48
"""Side in pixels to which faces are scaled, so that the detail is relative to the face, not to the video's pixels."""
DETAIL_SIGMA = 1.5
"""Standard deviation in these pixels of the Gaussian that removes the detail."""
FACE_PORTION = 0.8
"""Central portion of the face's box that counts, so that the backdrop does not."""


@register_metric(rank=340)
class FaceDetail(MeanMetric):
    """Mean over frames of the root mean square of what a Gaussian removes from the gray face, scaled to 48 pixels.

    Noise counts as detail, so that it shows the blur of videos with little noise, such as rendered ones. The score of
    the reference videos is what the videos should have.
    """

    name = "face_detail"
    values = (MetricValue("face_detail", "", "reference", "Fine detail of the face, in gray levels of 255."),)
    paired = False
    per_person = True

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns it; NaN if there is no face."""
        if not video.has_face:
            return self.not_measurable()
        boxes = video.track.boxes
        known = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        found = [face_detail(video.frames[index], boxes[index]) for index in known]
        return {"face_detail": np.array(np.nanmean(found) if np.isfinite(found).any() else np.nan)}


def face_detail(frame: NDArray[np.uint8], box: NDArray[np.floating]) -> float:
    """Returns the detail of a face in gray levels; NaN where less than two pixels of it are in the frame.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box: (4,) left, top, right, bottom in pixels.
    """
    import cv2

    height, width = frame.shape[:2]
    center, half = (box[:2] + box[2:]) / 2, FACE_PORTION * (box[2:] - box[:2]) / 2
    left, top = np.clip(np.round(center - half).astype(int), 0, [width, height]).tolist()
    right, bottom = np.clip(np.round(center + half).astype(int), 0, [width, height]).tolist()
    if right - left < 2 or bottom - top < 2:
        return float("nan")
    gray = cv2.cvtColor(np.ascontiguousarray(frame[top:bottom, left:right]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    scaling = cv2.INTER_AREA if min(gray.shape) > FACE_SIDE else cv2.INTER_CUBIC
    face = cv2.resize(gray, (FACE_SIDE, FACE_SIDE), interpolation=scaling)
    return float(np.sqrt(np.square(face - cv2.GaussianBlur(face, (0, 0), DETAIL_SIGMA)).mean()))

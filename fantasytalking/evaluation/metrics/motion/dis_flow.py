"""SD-DIS and BD-DIS: motion of the person and the background by OpenCV's DIS optical flow.

The paper's SD and BD use RAFT's flow inside and outside a SAM mask. These use DIS (Kroeger et al. 2016) and MediaPipe's
silhouette, so the numbers and the names differ.
"""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.motion.base_flow import FlowMetric, resize_for_flow


@register_metric(rank=140)
class DISFlow(FlowMetric):
    """Mean length of the DIS flow inside and outside the silhouette."""

    name = "dis"
    values = (
        MetricValue("sd_dis", "px", "reference", "Optical flow of the person (DIS), 256 px, 25 frames per second."),
        MetricValue("bd_dis", "px", "reference", "Optical flow of the background (DIS), 256 px, 25 frames per second."),
    )

    def flow_magnitudes(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the flow of DIS's medium preset; see `FlowMetric`."""
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        gray = [resize_for_flow(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
        initial = np.zeros((*gray[0].shape, 2), np.float32)
        pairs = pairwise(gray)
        return np.stack([np.linalg.norm(flow.calc(one, other, initial.copy()), axis=-1) for one, other in pairs])

"""SD-DIS and BD-DIS: how fast the person and the background move, by OpenCV's DIS optical flow.

The paper's SD and BD take RAFT's flow inside and outside a SAM mask; these take DIS (Kroeger et al. 2016) and
MediaPipe's silhouette, and so are other numbers under other names.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips

FLOW_SHORT_SIDE = 256
FLOW_FPS = 25.0
MIN_AREA_FRACTION = 0.005
"""Of the picture: a smaller person or background is none."""


class DISFlow(Metric):
    """Mean length of the flow inside and outside the silhouette, in pixels of a picture whose shorter side is 256, per
    1/25 s whatever the clip's rate. Lengths over all frames and pixels; a mask is that of the earlier frame."""

    name = "dis"
    values = (
        MetricValue("sd_dis", "px", "reference", "Optical flow of the person (DIS), 256 px, 25 frames a second."),
        MetricValue("bd_dis", "px", "reference", "Optical flow of the background (DIS), 256 px, 25 frames a second."),
    )
    paired = False

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Means over pairs of frames; NaN with fewer than two frames, and where there is no person or background."""
        inside, outside = subject_and_background_flow(video, dis_flow_magnitudes)
        return {"sd_dis": np.array(inside), "bd_dis": np.array(outside)}

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips that have both."""
        return mean_over_clips(measurements, ("sd_dis", "bd_dis"))


def subject_and_background_flow(
    clip: EvaluationClip, flow_magnitudes: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> tuple[float, float]:
    """Mean length of the flow of the person and of the background, per 1/25 s; NaN where there is none.

    Args:
        flow_magnitudes: (T, H, W, 3) frames to (T - 1, h, w) lengths at min(h, w) = 256.
    """
    if len(clip.frames) < 2:
        return np.nan, np.nan
    lengths = flow_magnitudes(clip.frames) * (clip.fps / FLOW_FPS)
    person = np.stack([resize_for_flow(mask) for mask in clip.subject_masks[:-1]]) > 0.5
    inside, outside = (
        lengths[where].mean() if where.mean() >= MIN_AREA_FRACTION else np.nan for where in (person, ~person)
    )
    return float(inside), float(outside)


def dis_flow_magnitudes(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, H, W, 3) RGB to (T - 1, h, w) lengths of the flow to the next frame, pixels at min(h, w) = 256."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [resize_for_flow(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
    no_start = np.zeros((*grey[0].shape, 2), np.float32)
    pairs = pairwise(grey)
    return np.stack([np.linalg.norm(flow.calc(one, other, no_start.copy()), axis=-1) for one, other in pairs])


def resize_for_flow(image: NDArray) -> NDArray:
    """(H, W) or (H, W, 3) brought to a shorter side of 256."""
    scale = FLOW_SHORT_SIDE / min(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)

"""SD-DIS and BD-DIS: how fast the person and the background move, by OpenCV's DIS optical flow.

The paper's SD and BD take RAFT's flow inside and outside a SAM mask; these take DIS (Kroeger et al. 2016) and
MediaPipe's silhouette, and so are other numbers under other names.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import Clip
from fantasytalking.evaluation.metric import Metric, Record, Value, mean_over_clips

SHORT_SIDE = 256
RATE = 25.0
LEAST_SHARE = 0.005
"""Of the picture: a smaller person or background is none."""


class DISFlow(Metric):
    """Mean length of the flow inside and outside the silhouette, in pixels of a picture whose shorter side is 256, per
    1/25 s whatever the clip's rate. Lengths over all frames and pixels; a mask is that of the earlier frame."""

    name = "dis"
    values = (
        Value("sd_dis", "px", "reference", "Optical flow of the person (DIS), 256 px, 25 frames a second."),
        Value("bd_dis", "px", "reference", "Optical flow of the background (DIS), 256 px, 25 frames a second."),
    )
    paired = False

    def measure(self, video: Clip, reference: Clip | None) -> Record:
        """Means over pairs of frames; NaN with fewer than two frames, and where there is no person or background."""
        inside, outside = inside_and_outside(video, flow_lengths)
        return {"sd_dis": np.array(inside), "bd_dis": np.array(outside)}

    def summarise(self, records: Sequence[Record]) -> dict[str, float]:
        """Means over clips that have both."""
        return mean_over_clips(records, ("sd_dis", "bd_dis"))


def inside_and_outside(
    clip: Clip, lengths_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> tuple[float, float]:
    """Mean length of the flow of the person and of the background, per 1/25 s; NaN where there is none.

    Args:
        lengths_of: (T, H, W, 3) frames to (T - 1, h, w) lengths at min(h, w) = 256.
    """
    if len(clip.frames) < 2:
        return np.nan, np.nan
    lengths = lengths_of(clip.frames) * (clip.fps / RATE)
    person = np.stack([scaled(mask) for mask in clip.subject[:-1]]) > 0.5
    inside, outside = (lengths[where].mean() if where.mean() >= LEAST_SHARE else np.nan for where in (person, ~person))
    return float(inside), float(outside)


def flow_lengths(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, H, W, 3) RGB to (T - 1, h, w) lengths of the flow to the next frame, pixels at min(h, w) = 256."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [scaled(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
    no_start = np.zeros((*grey[0].shape, 2), np.float32)
    pairs = pairwise(grey)
    return np.stack([np.linalg.norm(flow.calc(one, other, no_start.copy()), axis=-1) for one, other in pairs])


def scaled(picture: NDArray) -> NDArray:
    """(H, W) or (H, W, 3) brought to a shorter side of 256."""
    scale = SHORT_SIDE / min(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)

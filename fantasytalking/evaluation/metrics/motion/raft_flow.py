"""SD and BD by RAFT: how fast the person and the background move.

The paper takes RAFT inside and outside a SAM mask, at a size and stride that it does not state. Here the mask is
MediaPipe's silhouette, the size 256 and the unit pixels per 1/25 s, so the names say RAFT and the numbers are not the
paper's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue, mean_over_clips
from fantasytalking.evaluation.metrics.motion.dis_flow import resize_for_flow, subject_and_background_flow
from fantasytalking.evaluation.networks.loading import module_device, require_weights
from fantasytalking.evaluation.networks.raft import RAFT, RAFT_STRIDE
from fantasytalking.evaluation.weights import RAFT_WEIGHTS as RAFT_WEIGHTS


class RAFTFlow(Metric):
    """As DISFlow, by RAFT trained on FlyingThings, 20 iterations, sides filled up to multiples of 8 by the edge."""

    name = "raft"
    values = (
        MetricValue("sd_raft", "px", "reference", "Optical flow of the person (RAFT), 256 px, 25 frames a second."),
        MetricValue("bd_raft", "px", "reference", "Optical flow of the background (RAFT), 256 px, 25 frames a second."),
    )
    required_weights = (RAFT_WEIGHTS,)
    paired = False

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = RAFT.from_file(require_weights(self.required_weights[0], weights))

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Means over pairs of frames; NaN with fewer than two frames, and where there is no person or background."""
        inside, outside = subject_and_background_flow(video, self.flow_magnitudes)
        return {"sd_raft": np.array(inside), "bd_raft": np.array(outside)}

    @torch.no_grad()
    def flow_magnitudes(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(T, H, W, 3) RGB to (T - 1, h, w) lengths of the flow to the next frame, pixels at min(h, w) = 256."""
        pictures = torch.from_numpy(np.stack([resize_for_flow(frame) for frame in frames])).permute(0, 3, 1, 2).float()
        height, width = pictures.shape[2:]
        top, left = -height % RAFT_STRIDE // 2, -width % RAFT_STRIDE // 2
        edges = (left, -width % RAFT_STRIDE - left, top, -height % RAFT_STRIDE - top)
        pictures = F.pad(pictures, edges, mode="replicate").to(module_device(self._network))
        flows = [self._network(pictures[k : k + 1], pictures[k + 1 : k + 2]) for k in range(len(pictures) - 1)]
        flow = torch.cat(flows)[:, :, top : top + height, left : left + width]
        return flow.norm(dim=1).cpu().numpy()

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """Means over clips that have both."""
        return mean_over_clips(measurements, ("sd_raft", "bd_raft"))

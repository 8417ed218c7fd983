"""SD and BD by RAFT: motion of the person and the background.

The paper uses RAFT inside and outside a SAM mask, at a size and frame distance that it does not state. Here the mask is
MediaPipe's silhouette, the size 256 and the unit pixels per 1/25 s. The names say RAFT, and the numbers are not
comparable with the paper's.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fantasytalking.common.network_file import module_device
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.motion.base_flow import FlowMetric, resize_for_flow
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.networks.raft import RAFT, RAFT_STRIDE
from fantasytalking.evaluation.weights import RAFT_WEIGHTS


@register_metric(rank=130)
class RAFTFlow(FlowMetric):
    """Mean length of the flow of RAFT trained on FlyingThings (20 iterations, sides padded to multiples of 8)."""

    name = "raft"
    values = (
        MetricValue("sd_raft", "px", "reference", "Optical flow of the person (RAFT), 256 px, 25 frames per second."),
        MetricValue(
            "bd_raft", "px", "reference", "Optical flow of the background (RAFT), 256 px, 25 frames per second."
        ),
    )
    required_weights = (RAFT_WEIGHTS,)

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = RAFT.from_file(require_weights(self.required_weights[0], weights))

    @torch.no_grad()
    def flow_magnitudes(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the flow of RAFT; see `FlowMetric`. Edge pixels are repeated as padding."""
        images = torch.from_numpy(np.stack([resize_for_flow(frame) for frame in frames])).permute(0, 3, 1, 2).float()
        height, width = images.shape[2:]
        top, left = -height % RAFT_STRIDE // 2, -width % RAFT_STRIDE // 2
        padding = (left, -width % RAFT_STRIDE - left, top, -height % RAFT_STRIDE - top)
        images = F.pad(images, padding, mode="replicate").to(module_device(self._network))
        flows = [self._network(images[k : k + 1], images[k + 1 : k + 2]) for k in range(len(images) - 1)]
        flow = torch.cat(flows)[:, :, top : top + height, left : left + width]
        return flow.norm(dim=1).cpu().numpy()

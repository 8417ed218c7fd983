"""IDC: consistency of the subject's appearance over frames, by DINO, as VBench's subject consistency."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.common.network_file import module_device
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.image_transforms import IMAGENET_STATISTICS, normalize_images, resize_short_side
from fantasytalking.evaluation.metric import MeanMetric, Measurement, MetricValue, register_metric
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.networks.vit import VisionTransformer
from fantasytalking.evaluation.weights import DINO_WEIGHTS

DINO_INPUT_SIZE = 224
DINO_BATCH_SIZE = 8


@register_metric(rank=110)
class IDC(MeanMetric):
    """Mean over all frames but the first of half the cosine to the previous plus half the cosine to the first frame.

    Negative cosines count as 0 (Huang et al. 2024, VBench). The paper uses the face crop, VBench the whole frame: both
    are measured, under their own names. A still video scores 1.
    """

    name = "idc"
    values = (
        MetricValue("idc_face", "", "higher", "Consistency of DINO features of the face crop, as in the paper."),
        MetricValue("idc_frame", "", "higher", "Consistency of DINO features of the whole frame, as in VBench."),
    )
    required_weights = (DINO_WEIGHTS,)
    paired = False

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = self._load(require_weights(self.required_weights[0], weights))

    def _load(self, path: Path) -> VisionTransformer:
        return VisionTransformer.from_file(path)

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """Returns both; NaN for a single frame, and for the face if there is none."""
        face = self._consistency(video.face_crops(DINO_INPUT_SIZE)) if video.has_face else np.nan
        return {
            "idc_face": np.array(face),
            "idc_frame": np.array(self._consistency(resize_short_side(video.frames, DINO_INPUT_SIZE, "bilinear"))),
        }

    @torch.no_grad()
    def _consistency(self, frames: NDArray[np.uint8]) -> float:
        parts = [frames[first : first + DINO_BATCH_SIZE] for first in range(0, len(frames), DINO_BATCH_SIZE)]
        device = module_device(self._network)
        features = torch.cat([self._network(normalize_images(part, IMAGENET_STATISTICS).to(device)) for part in parts])
        return subject_consistency(features.cpu().numpy())


def subject_consistency(features: NDArray[np.floating]) -> float:
    """Returns VBench's score of (T, D) features; NaN for a single frame."""
    if len(features) < 2:
        return float("nan")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    to_previous, to_first = (unit[1:] * unit[:-1]).sum(axis=1), unit[1:] @ unit[0]
    return float((np.maximum(to_previous, 0) + np.maximum(to_first, 0)).mean() / 2)

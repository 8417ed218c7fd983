"""FVD: the Frechet distance of I3D features of windows of 16 frames, with StyleGAN-V's conventions."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.network_file import compute_device
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import MetricValue, register_metric
from fantasytalking.evaluation.metrics.frechet_distance import FrechetMetric
from fantasytalking.evaluation.networks.loading import require_weights
from fantasytalking.evaluation.weights import I3D_WEIGHTS

FVD_WINDOW_FRAMES = 16
FVD_BATCH_SIZE = 4


@register_metric(rank=20)
class FVD(FrechetMetric):
    """FVD of Unterthiner et al. 2018, by the TorchScript I3D of StyleGAN-V (Kinetics-400, 400 features before softmax).

    The network takes RGB in [0, 255] and scales it to [-1, 1] and 224 x 224. Windows of 16 frames do not overlap and
    have the clip's own frame rate; the remaining frames and shorter clips are not used. Covariances are divided by N.
    FVDs of other networks (3D ResNet) or other window lengths are not comparable.
    """

    name = "fvd"
    values = (
        MetricValue("fvd", "", "lower", f"Frechet distance of I3D features of windows of {FVD_WINDOW_FRAMES} frames."),
        MetricValue("fvd_stretches", "", "reference", "Windows per side: the distance depends on their number."),
    )
    required_weights = (I3D_WEIGHTS,)
    resamples = 200
    unbiased = False

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = _load_torchscript(require_weights(self.required_weights[0], weights))

    @torch.no_grad()
    def extract_features(self, clip: EvaluationClip) -> NDArray[np.float32]:
        """Returns (N, 400) features, one per window; (0, 0) for a clip shorter than a window."""
        count = len(clip.frames) // FVD_WINDOW_FRAMES
        if count == 0:
            return np.zeros((0, 0), np.float32)
        windows = torch.from_numpy(clip.frames[: count * FVD_WINDOW_FRAMES]).unflatten(0, (count, FVD_WINDOW_FRAMES))
        parts = windows.permute(0, 4, 1, 2, 3).split(FVD_BATCH_SIZE)
        options = {"rescale": True, "resize": True, "return_features": True}
        device = compute_device()
        return torch.cat([self._network(part.to(device).float(), **options) for part in parts]).cpu().numpy()


def _load_torchscript(path: Path) -> Any:
    """Loads a TorchScript file. It is a program: only files of known hash are ever in a metric's `required_weights`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=compute_device()).eval()
    except RuntimeError as error:
        raise InputError(
            f"'{path}' is not a TorchScript file; download it again: {I3D_WEIGHTS.source}",
            code=ErrorCode.malformed_file,
            field=I3D_WEIGHTS.file,
            value=str(path),
        ) from error

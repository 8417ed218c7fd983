"""FVD: the Frechet distance of I3D features of stretches of 16 frames, in StyleGAN-V's conventions."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metric import Measurement, Metric, MetricValue
from fantasytalking.evaluation.metrics.quality.fid import frechet_from_measurements
from fantasytalking.evaluation.networks.loading import compute_device, require_weights
from fantasytalking.evaluation.weights import I3D_WEIGHTS

FVD_WINDOW_FRAMES = 16
FVD_BATCH_SIZE = 4


class FVD(Metric):
    """Unterthiner et al. 2018, by the TorchScript I3D of StyleGAN-V (Kinetics-400, 400 features before the softmax).

    The network gets RGB in [0, 255] and itself scales them to [-1, 1] and to 224 x 224. Stretches of 16 frames follow
    each other without overlap at the clip's own rate; a clip's rest, and shorter clips, are left out. Covariances are
    divided by N. FVDs by other networks (3D ResNet) or of other lengths cannot be compared.
    """

    name = "fvd"
    values = (
        MetricValue(
            "fvd", "", "lower", f"Frechet distance of I3D features of stretches of {FVD_WINDOW_FRAMES} frames."
        ),
        MetricValue(
            "fvd_stretches", "", "reference", "Stretches on either side: the distance depends on their number."
        ),
    )
    required_weights = (I3D_WEIGHTS,)
    paired = True
    distribution = True
    resamples = 200

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self._network = _load(require_weights(self.required_weights[0], weights))

    def measure(self, video: EvaluationClip, reference: EvaluationClip | None) -> Measurement:
        """(N, 400) features of both sides."""
        assert reference is not None
        return {"video": self._features(video), "reference": self._features(reference)}

    @torch.no_grad()
    def _features(self, clip: EvaluationClip) -> NDArray[np.float32]:
        count = len(clip.frames) // FVD_WINDOW_FRAMES
        if count == 0:
            return np.zeros((0, 0), np.float32)
        stretches = torch.from_numpy(clip.frames[: count * FVD_WINDOW_FRAMES]).unflatten(0, (count, FVD_WINDOW_FRAMES))
        parts = stretches.permute(0, 4, 1, 2, 3).split(FVD_BATCH_SIZE)
        options = {"rescale": True, "resize": True, "return_features": True}
        device = compute_device()
        return torch.cat([self._network(part.to(device).float(), **options) for part in parts]).cpu().numpy()

    def summarize(self, measurements: Sequence[Measurement]) -> dict[str, float]:
        """The distance of all stretches of all clips."""
        return frechet_from_measurements(measurements, "fvd", "fvd_stretches", unbiased=False)


def _load(path: Path) -> Any:
    """A TorchScript file is a program: only one whose hash is known is ever in a metric's `required_weights`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=compute_device()).eval()
    except RuntimeError as error:
        raise InputError(f"'{path}' is no TorchScript file; get it again: {I3D_WEIGHTS.source}") from error

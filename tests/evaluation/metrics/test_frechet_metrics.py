"""Frechet distances against torchmetrics, the closed form and images with known differences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.files import hash_file
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metrics.frechet_distance import frechet_distance
from fantasytalking.evaluation.metrics.quality.fid import FID
from fantasytalking.evaluation.metrics.quality.fvd import FVD
from fantasytalking.evaluation.networks.inception import Inception
from fantasytalking.evaluation.weights import I3D_WEIGHTS, INCEPTION_WEIGHTS, MetricWeights
from tests.helpers.errors import raises_input_error


def gaussian(count: int, mean: float, root: np.ndarray) -> np.ndarray:
    """Returns samples whose mean and covariance (over N - 1) are exactly `mean` and root' root."""
    values = np.random.default_rng(0).normal(size=(count, len(root)))
    values -= values.mean(axis=0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(values.T)), values.T).T
    return whitened @ root + mean


@pytest.mark.parametrize(("first", "second"), [(400, 300), (40, 30), (400, 20)])
def test_equals_torchmetrics(first: int, second: int) -> None:
    module = pytest.importorskip("torchmetrics.image.fid")
    random = np.random.default_rng(1)
    mix = random.normal(size=(64, 64))
    one, other = random.normal(size=(first, 64)) @ mix, random.normal(size=(second, 64)) @ mix * 1.3 + 0.2
    moments = [torch.from_numpy(moment) for x in (one, other) for moment in (x.mean(axis=0), np.cov(x.T))]
    assert frechet_distance(one, other) == pytest.approx(float(module._compute_fid(*moments)), rel=1e-6)


def test_equals_the_closed_form_of_gaussians() -> None:
    scales = np.array([1.0, 2.0, 0.5])
    one, other = gaussian(200, 0.0, np.eye(3)), gaussian(200, 2.0, np.diag(scales))
    assert frechet_distance(one, other) == pytest.approx(3 * 4 + np.square(scales - 1).sum())
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    # For C1 = 1 the root of C1 C2 is that of C2, regardless of rotation.
    assert frechet_distance(one, gaussian(200, 0.0, np.diag(scales) @ turn)) == pytest.approx(
        np.square(scales - 1).sum()
    )
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    biased = frechet_distance(one, gaussian(200, 0.0, 2 * np.eye(3)), unbiased=False)
    assert biased == pytest.approx(3 * 199 / 200)
    assert np.isnan(frechet_distance(one[:1], other))


@pytest.fixture(scope="module")
def inception() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


def test_inception_has_the_size_and_names_of_its_weights(inception: Inception) -> None:
    parameters = dict(inception.named_parameters())
    # torchvision's network without its second classifier has 23,834,568; here are eight classes more.
    assert sum(parameter.numel() for parameter in parameters.values()) == 23_834_568 + 8 * 2049
    assert parameters["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert parameters["Mixed_6c.branch7x7dbl_5.bn.weight"].shape == (192,)
    sizes = {}
    for name in ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
        inception.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: sizes.update({name: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        assert inception(torch.rand(1, 3, 40, 60)).shape == (1, 2048)
    assert sizes == {
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }


class UncheckedFID(FID):
    """FID without a check of the hash of its weights."""

    required_weights = (MetricWeights(INCEPTION_WEIGHTS.file, None, None, "", "", ""),)


class UncheckedFVD(FVD):
    """FVD without a check of the hash of its weights."""

    required_weights = (MetricWeights(I3D_WEIGHTS.file, None, None, "", "", ""),)


class TinyI3D(nn.Module):
    """Has the call signature of the real network."""

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale and resize and return_features
        return torch.cat([video.mean(dim=(2, 3, 4)), video.diff(dim=2).abs().mean(dim=(2, 3, 4))], dim=1)


def few(clip: EvaluationClip, change: int = 0) -> EvaluationClip:
    frames = clip.frames[:32:16].astype(int) + change
    return EvaluationClip.from_arrays(np.clip(frames, 0, 255).astype(np.uint8), 25.0)


def test_fid_is_zero_for_equal_and_grows_with_change(
    inception: Inception, clips: list[EvaluationClip], tmp_path: Path
) -> None:
    file = {name: value for name, value in inception.state_dict().items() if "num_batches" not in name}
    torch.save(file, tmp_path / INCEPTION_WEIGHTS.file)
    with raises_input_error(
        ErrorCode.malformed_file, INCEPTION_WEIGHTS.file, hash_file(tmp_path / INCEPTION_WEIGHTS.file)
    ):
        FID(tmp_path)
    metric = UncheckedFID(tmp_path)
    scores = []
    for change in (0, 30, 90):
        metric.reset()
        metric.update(few(clips[0], change), few(clips[0]))
        scores.append(metric.compute())
    assert [score["fid_frames"] for score in scores] == [2] * 3
    assert scores[0]["fid"] == pytest.approx(0, abs=1e-6)
    assert scores[0]["fid"] < scores[1]["fid"] < scores[2]["fid"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_fvd_uses_windows_of_sixteen_frames(clips: list[EvaluationClip], tmp_path: Path) -> None:
    torch.jit.script(TinyI3D()).save(str(tmp_path / I3D_WEIGHTS.file))
    with raises_input_error(ErrorCode.malformed_file, I3D_WEIGHTS.file, hash_file(tmp_path / I3D_WEIGHTS.file)):
        FVD(tmp_path)
    metric = UncheckedFVD(tmp_path)
    clip = clips[0].slice_frames(slice(0, 40))
    record = metric.measure(clip, clip)
    assert record["video"].shape == (2, 6)
    first = clip.frames[:16].astype(np.float64)
    np.testing.assert_allclose(record["video"][0, :3], first.mean(axis=(0, 1, 2)), rtol=1e-5)
    frozen = EvaluationClip.from_arrays(np.repeat(clip.frames[:1], 40, axis=0), 25.0)
    same, still = (metric.summarize([metric.measure(video, clip)]) for video in (clip, frozen))
    assert same["fvd"] == pytest.approx(0, abs=1e-6) and still["fvd"] > 0.1
    assert metric.summarize([metric.measure(clip.slice_frames(slice(0, 9)), clip)])["n"] == 0
    (tmp_path / I3D_WEIGHTS.file).write_bytes(b"nothing")
    with raises_input_error(ErrorCode.malformed_file, I3D_WEIGHTS.file, str(tmp_path / I3D_WEIGHTS.file)):
        UncheckedFVD(tmp_path)

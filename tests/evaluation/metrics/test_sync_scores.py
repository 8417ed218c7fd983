"""SyncNet against reference values of its authors' code, and on videos with known sync."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metrics.sync.sync_scores import SyncNetMetric
from fantasytalking.evaluation.weights import SYNCNET_WEIGHTS, MetricWeights
from fantasytalking.perception.syncnet.mfcc import mfcc
from fantasytalking.perception.syncnet.sync_distance import sync_scores
from fantasytalking.perception.syncnet.syncnet_input import nearest_frame_indices, syncnet_crops
from fantasytalking.perception.syncnet.syncnet_model import SyncNet, window_features
from tests.helpers.errors import raises_input_error

SCALES = {"netcnnaud.0.weight": 0.1, "netcnnlip.0.weight": 0.02}


def wave(index: np.ndarray, tensor: int) -> np.ndarray:
    """Returns deterministic pseudo-random numbers in [-1, 1]."""
    value = 43758.5453 * np.sin(12.9898 * index + 78.233 * tensor)
    return 2 * (value - np.floor(value)) - 1


def formula_network() -> SyncNet:
    """Returns SyncNet with weights by formula."""
    network = SyncNet().eval().requires_grad_(False)
    floats = [(name, value) for name, value in network.state_dict().items() if value.is_floating_point()]
    for number, (name, value) in enumerate(floats):
        x = wave(np.arange(value.numel(), dtype=np.float64), number)
        if name.endswith("running_var"):
            x = 1 + 0.5 * x
        elif name.endswith("running_mean"):
            x = 0.2 * x
        elif value.ndim == 1:
            x = 1 + 0.2 * x if name.endswith("weight") else 0.1 * x
        else:
            x = x * np.sqrt(6 / value[0].numel()) * SCALES.get(name, 0.6)
        value.copy_(torch.from_numpy(x).reshape(value.shape))
    return network


def formula_frames(count: int) -> torch.Tensor:
    """Returns (count, 224, 224, 3) BGR frames by formula."""
    f, y, x, c = np.ogrid[:count, :224, :224, :3]
    value = 128 + 60 * np.sin(0.9 * f + 0.11 * y * (1 + 0.2 * c)) + 50 * np.sin(0.07 * x + 1.7 * f**2)
    return torch.from_numpy(np.clip(np.round(value), 0, 255).astype(np.uint8))


def tone(frames: int) -> np.ndarray:
    n = np.arange(640 * frames)
    strength = 0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * n / 16000)
    return np.round(6000 * np.sin(2 * np.pi * (200 + 0.02 * n) * n / 16000) * strength).astype(np.int16)


@pytest.fixture(scope="module")
def network() -> SyncNet:
    return formula_network()


def test_mfccs_equal_the_reference() -> None:
    cepstra = mfcc(tone(40))
    assert cepstra.shape == (159, 13)
    np.testing.assert_allclose(cepstra[0, :3], [16.30292, 23.98277, 15.83043], atol=1e-5)
    assert cepstra.sum() == pytest.approx(-3202.5945, abs=1e-4)


@pytest.mark.parametrize(
    ("frames", "distance", "median", "confidence"),
    [
        (40, 11.11451, 11.82095, 0.70643),
        pytest.param(81, 11.97979, 12.33503, 0.35524, marks=pytest.mark.slow),
    ],
)
def test_scores_equal_the_reference(
    network: SyncNet, frames: int, distance: float, median: float, confidence: float
) -> None:
    assert len(network.state_dict()) == 102
    cepstra = torch.from_numpy(mfcc(tone(frames)))
    scores = sync_scores(*window_features(network, formula_frames(frames), cepstra, frames - 5))
    assert scores.distance == pytest.approx(distance, abs=1e-4)
    assert scores.confidence == pytest.approx(confidence, abs=1e-4)
    assert scores.distance + scores.confidence == pytest.approx(median, abs=1e-4)
    assert scores.offset == 15


@pytest.mark.parametrize("lead", [-4, 0, 7])
def test_a_lead_of_the_audio_is_found(lead: int) -> None:
    torch.manual_seed(0)
    world = torch.randn(120, 1024)
    video, audio = world[20:100], world[20 + lead : 100 + lead]
    scores = sync_scores(video, audio)
    assert scores.offset == lead
    assert scores.valid_distance < 0.1 < scores.distance + 0.1
    assert scores.confidence > sync_scores(video, torch.randn(80, 1024)).confidence + 10
    assert int(scores.distance_per_window.isnan().sum()) == abs(lead)


def test_delayed_audio_is_in_later_windows(network: SyncNet) -> None:
    audio = tone(40)
    silence = np.zeros(3 * 640, np.int16)
    cepstra = [torch.from_numpy(mfcc(samples)) for samples in (audio, np.concatenate([silence, audio])[: 40 * 640])]
    on_time, late = (window_features(network, formula_frames(9), part, 5)[1] for part in cepstra)
    # The first window starts at the first sample, which has no preemphasis.
    torch.testing.assert_close(late[4], on_time[1], atol=1e-3, rtol=1e-3)
    assert (late[4] - on_time[4]).norm() > 1


def test_padding_biases_the_confidence_but_not_the_valid_one() -> None:
    lengths = (35, 76, 120, 245)
    constant = [sync_scores(torch.ones(length, 1024), torch.full((length, 1024), 0.4)) for length in lengths]
    biased = [scores.confidence for scores in constant]
    assert biased == sorted(biased, reverse=True) and biased[0] > 5 * biased[-1] > 0
    assert [scores.valid_confidence for scores in constant] == pytest.approx([0] * 4, abs=1e-4)


class UncheckedSyncNetMetric(SyncNetMetric):
    """The metric without a check of the hash of its weights."""

    required_weights = (MetricWeights(SYNCNET_WEIGHTS.file, None, None, "", "", ""),)


@pytest.fixture(scope="module")
def metric(network: SyncNet, tmp_path_factory: pytest.TempPathFactory) -> SyncNetMetric:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), folder / SYNCNET_WEIGHTS.file)
    with raises_input_error(
        ErrorCode.malformed_file, SYNCNET_WEIGHTS.file, (folder / SYNCNET_WEIGHTS.file).stat().st_size
    ):
        SyncNetMetric(folder)
    return UncheckedSyncNetMetric(folder)


def test_a_clip_without_face_or_audio_has_no_score(metric: SyncNetMetric, clips: list[EvaluationClip]) -> None:
    clip = clips[0].slice_frames(slice(0, 32))
    silent = EvaluationClip.from_arrays(clip.frames, 25.0)
    gray = EvaluationClip.from_arrays(np.full((32, 64, 64, 3), 128, np.uint8), 25.0, clip.audio)
    records = [metric.measure(video, None) for video in (clip, silent, gray)]
    summary = metric.summarize(records)
    assert summary["n"] == 1
    assert summary["sync_windows"] == 32 - 5
    assert np.isfinite([summary[value.name] for value in metric.values]).all()
    record = records[0]
    assert record["sync_curve"].shape == (1,)
    assert float(record["sync_d"]) != float(metric.measure(clip.with_audio(clips[1].audio), None)["sync_d"])


def test_crops_follow_the_face_at_25_frames_per_second(clips: list[EvaluationClip]) -> None:
    clip = clips[0].slice_frames(slice(0, 20))
    crops = syncnet_crops(clip.frames, clip.times, clip.fps, clip.track)
    assert crops.shape == (20, 224, 224, 3) and crops.dtype == np.uint8
    box = clip.track.boxes[10]
    half = max(box[2] - box[0], box[3] - box[1]) / 2
    x, y = (box[:2] + box[2:]) / 2
    # The center of the box is at 1 of 2.8 from the top of the crop, in the middle horizontally.
    row, column = round(224 / 2.8), 112
    expected = clip.frames[10][round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].mean(axis=(0, 1))
    spot = round(224 / (2.8 * half) * 2)
    found = crops[10][row - spot : row + spot, column - spot : column + spot].mean(axis=(0, 1))[::-1]
    np.testing.assert_allclose(found, expected, atol=12)
    slow = clips[0].slice_frames(slice(0, 40, 2))
    assert nearest_frame_indices(slow.times, slow.fps).tolist() == [k // 2 for k in range(40)]


def test_invalid_weights_are_rejected(network: SyncNet, tmp_path: Path) -> None:
    path = tmp_path / SYNCNET_WEIGHTS.file
    tensors = dict(network.state_dict())
    tensors.pop("netfclip.0.bias")
    torch.save(tensors, path)
    with pytest.raises(InputError, match=r"netfclip\.0\.bias"):
        SyncNet.from_file(path)
    torch.save([1], path)
    with raises_input_error(ErrorCode.malformed_file, path.name, str(path)):
        SyncNet.from_file(path)

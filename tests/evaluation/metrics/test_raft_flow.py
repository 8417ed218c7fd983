"""RAFT's parts on inputs with known results, its size and parameter names, and the metric on videos."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.metrics.motion.raft_flow import RAFTFlow
from fantasytalking.evaluation.networks.raft import (
    LOOKUP_RADIUS,
    PYRAMID_LEVELS,
    RAFT,
    convex_upsample,
    correlation_pyramid,
    lookup_correlations,
)
from fantasytalking.evaluation.weights import RAFT_WEIGHTS

SPAN = 2 * LOOKUP_RADIUS + 1


@pytest.fixture(scope="module")
def network() -> RAFT:
    torch.manual_seed(0)
    return RAFT().eval().requires_grad_(False)


def test_raft_has_the_size_and_names_of_its_weights(network: RAFT) -> None:
    parameters = dict(network.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == 5_257_536
    names = set(network.state_dict())
    assert {"cnet.layer2.0.norm3.weight", "cnet.layer2.0.downsample.1.weight", "update_block.mask.2.bias"} <= names
    assert not any(name.startswith("fnet") and "norm" in name for name in names)
    assert parameters["update_block.gru.convq2.weight"].shape == (128, 384, 5, 1)
    assert parameters["update_block.encoder.conv.weight"].shape == (126, 256, 3, 3)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, -2), (-4, 1)])
def test_the_lookup_finds_shifted_features(right: int, down: int) -> None:
    torch.manual_seed(1)
    first = torch.nn.functional.normalize(torch.randn(1, 64, 24, 24), dim=1)
    second = first.roll((down, right), dims=(2, 3))
    pyramid = correlation_pyramid(first, second)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    found = lookup_correlations(pyramid, torch.zeros(1, 2, 24, 24))
    assert found.shape == (1, PYRAMID_LEVELS * SPAN**2, 24, 24)
    best = found[0, : SPAN**2, 8:16, 8:16].argmax(dim=0)
    # x varies slowest.
    assert (best == (right + LOOKUP_RADIUS) * SPAN + down + LOOKUP_RADIUS).all()
    flow = torch.tensor([right, down]).float()[None, :, None, None].expand(1, 2, 24, 24)
    middle = lookup_correlations(pyramid, flow)[0, : SPAN**2, 8:16, 8:16].argmax(dim=0)
    assert (middle == LOOKUP_RADIUS * SPAN + LOOKUP_RADIUS).all()


def test_upsampling_keeps_a_constant_flow() -> None:
    flow = torch.tensor([1.5, -2.0])[None, :, None, None].expand(1, 2, 6, 7)
    center = torch.zeros(1, 9, 8, 8, 6, 7)
    center[:, 4] = 50.0
    full = convex_upsample(flow, center.flatten(1, 3))
    assert full.shape == (1, 2, 48, 56)
    assert full[0, 0].eq(12).all() and full[0, 1].eq(-16).all()
    ramp = torch.arange(7.0)[None, None, None].expand(1, 2, 6, 7)
    left = torch.zeros(1, 9, 8, 8, 6, 7)
    left[:, 3] = 50.0
    shifted = convex_upsample(ramp, left.flatten(1, 3))[0, 0, 0, 8:]
    assert shifted.tolist() == pytest.approx([8 * (x // 8) for x in range(48)])


def test_weights_saved_from_many_gpus_are_loaded(network: RAFT, clips: list[EvaluationClip], tmp_path: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, tmp_path / RAFT_WEIGHTS.file)
    metric = RAFTFlow(tmp_path)
    clip = EvaluationClip.from_arrays(clips[0].frames[:2, :, :70], 25.0)
    record = metric.measure(clip, None)
    assert np.isfinite([float(value) for value in record.values()]).all()
    images = torch.rand(2, 1, 3, 128, 136) * 255
    again = metric._network(*images, iterations=1)
    assert again.shape == (1, 2, 128, 136)
    torch.testing.assert_close(again, network(*images, iterations=1))
    assert metric.summarize([metric.measure(clip.slice_frames(slice(0, 1)), None)])["n"] == 0
    torch.save(network.state_dict(), tmp_path / RAFT_WEIGHTS.file)
    with pytest.raises(InputError, match=RAFT_WEIGHTS.file + ".* missing"):
        RAFTFlow(tmp_path)

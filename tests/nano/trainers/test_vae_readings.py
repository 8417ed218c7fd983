"""Tests of the expressions that can be read through a VAE."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.nano.trainers.config import ComponentTrainingConfig, VaeTraining
from fantasytalking.nano.trainers.vae_readings import expression_readings, reconstruct
from fantasytalking.nano.trainers.video_vae import build_vae


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    torch.set_num_threads(1)
    config = VaeTraining(base_dim=4, dim_mult=[1, 1, 1], fit=ComponentTrainingConfig(1, 1, 0.001))
    return VideoAutoencoder(build_vae(config, 0).eval())


def test_an_untrained_vae_loses_the_expressions_that_the_videos_show(vae: VideoAutoencoder, videos: Path) -> None:
    found = expression_readings(vae, sorted(path.parent for path in videos.rglob("video.mp4")))
    assert found["original_mouth"] > 0.85 and found["original_head"] > 0.7
    assert not found["reconstructed_mouth"] > 0.5  # NaN where no face is found


def test_reconstructions_are_frames(vae: VideoAutoencoder) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    found = reconstruct(vae, frames)
    assert found.shape == frames.shape and found.dtype == np.uint8

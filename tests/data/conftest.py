"""Tiny encoders with random weights, built once per session."""

from pathlib import Path

import pytest
import torch

from fantasytalking.encoders.expression import ExpressionEncoder, ExpressionEncoderConfig, ExpressionNetwork
from tests.data.sample_videos import write_good_videos
from tests.helpers.shared_folder import shared_folder
from tests.helpers.tiny_components import build_components


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "components", build_components)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of usable videos."""
    return shared_folder(tmp_path_factory, "good", write_good_videos)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an expression encoder."""
    torch.manual_seed(0)
    network = ExpressionNetwork(ExpressionEncoderConfig(channels=[8, 8, 8, 8], hidden=8))
    folder = tmp_path_factory.mktemp("driver") / "expression_encoder"
    ExpressionEncoder(network).save_pretrained(folder)
    return folder

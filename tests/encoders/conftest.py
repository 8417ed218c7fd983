"""Tiny encoders with random weights, built once per session."""

from pathlib import Path

import pytest

from tests.helpers.shared_folder import shared_folder
from tests.helpers.tiny_components import build_components


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "components", build_components)

"""Markers and the places of data that is not part of the project."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The reference values of the released code; skips where the folder is absent."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("no folder of reference values beside the project")
    return folder


@pytest.fixture(scope="session")
def real_media() -> Path:
    """Real portraits, speech and videos; skips where the folder is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real media beside the project")
    return folder

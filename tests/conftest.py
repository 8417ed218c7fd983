"""Markers, the places of data that is not part of the project, and how a run of all tests saves time."""

import gc
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"

# Millions of objects of the imported packages live as long as the run: the collector need not look at them time and
# again, neither while they are imported nor later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--browser", action="store_true", help="run the tests marked browser as well")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.helpers.distribution import UnitScheduling

    return UnitScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    if hasattr(config, "workerinput"):
        from tests.helpers.distribution import position

        items.sort(key=lambda item: position(item.nodeid))
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
        if "browser" in item.keywords and not config.getoption("--browser"):
            item.add_marker(pytest.mark.skip(reason="drives a browser; run with --browser, as .ci/run does"))
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

"""Folders of tiny models and drawn videos that all processes of a test run share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """Returns the folder `name` that `write` fills, once in a run of tests. No test changes what is in it.

    The first process that asks for it calls `write` with an empty folder, which is then renamed; the others wait.
    """
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if not (root / name).is_dir():
            partial = root / f"{name}.partial"
            partial.mkdir()
            write(partial)
            partial.rename(root / name)
    return root / name

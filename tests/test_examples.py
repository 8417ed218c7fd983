"""The notebooks of examples/: their code runs from the first cell to the last."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"


def code_cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cells(path: Path) -> dict[str, Any]:
    """Runs a notebook's code in one namespace, as a kernel does."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(code_cells(path), start=1):
        exec(compile(source, f"{path.name}, code cell {number}", "exec"), namespace)
    return namespace


def test_notebooks_are_stored_without_outputs():
    paths = sorted(EXAMPLES.glob("*.ipynb"))
    assert paths
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path


@pytest.mark.slow
def test_the_notebook_of_nano_runs():
    shown = run_cells(EXAMPLES / "nano.ipynb")
    assert shown["frames"].shape == (33, 96, 96, 3)
    assert shown["OUTPUT"].is_file()
    assert shown["change"](shown["calm"]) < shown["change"](shown["lively"])

"""A script of scripts/ inside the tests' own process, or a fork of it: what it prints and how it ends."""

import os
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.paths import SCRIPTS


class CommandResult(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """Lines on stderr, progress bars left out."""
        return [line for line in self.err.splitlines() if line and "\r" not in line and "it/s" not in line]


def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *arguments: object
) -> CommandResult:
    """Runs scripts/`name` as `python` does. The imports, most of what a process of its own costs, are done."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / name), *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    except SystemExit as stop:
        assert stop.code is None or isinstance(stop.code, int)
        code = stop.code or 0
    captured = capsys.readouterr()
    return CommandResult(code, captured.out, captured.err)


def run_as_process(printed: Path, name: str, *arguments: str) -> None:
    """Runs scripts/`name` as `python` does, for a process of the fork server; all that it prints goes to `printed`."""
    file = printed.open("w", encoding="utf-8", buffering=1)
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.argv = [str(SCRIPTS / name), *arguments]
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")

"""scripts/app.py as a process of its own, with a tiny model whose every module counts."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER
from tests.helpers.tiny_pipeline import adapters, base, expressive, pipe, saved

__all__ = ["adapters", "base", "expressive", "pipe", "saved"]

SERVER_CONFIG = """
base: {base}
expression_adapter: {expressive}
sizes: [32x32, 64x32]
window_frames: 9
overlap_frames: 4
steps: 2
prompt: A person is talking.
note: A model for tests.
"""
MAX_PAGE_SECONDS = 2.0


@dataclass(frozen=True)
class Server:
    """A running page."""

    port: int
    output: Path
    """Folder of its videos."""
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(CONFIGS_FOLDER.parent / "scripts" / "app.py"), *map(str, arguments)]


@pytest.fixture(scope="session")
def server(saved: Path, expressive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio")
    pytest.importorskip("mediapipe")
    folder = tmp_path_factory.mktemp("page")
    settings = folder / "infer.yaml"
    settings.write_text(SERVER_CONFIG.format(base=saved, expressive=expressive))
    found = Server(free_port(), folder / "made", folder / "log")
    options = ("--config", settings, "--port", found.port, "--output", found.output, "--max-seconds", MAX_PAGE_SECONDS)
    # The examples come from data/demo of the folder it is started in; uploads go where the test's files go.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with found.log.open("w") as log:
        process = subprocess.Popen(
            command(*options), cwd=CONFIGS_FOLDER.parent, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(found, process)
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"the page did not come up: {server.log.read_text()[-2000:]}")
